//! TLS of the sinks that support it: which certificates are trusted, and which one the sink presents.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use domain::ca_store;
use domain::document::Section;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::error::{SinkError, SinkResult};

/// `tls = { ca_file, crt_file, key_file, server_name }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of trusted certificates. Absent: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate for servers that request one, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name in the server's certificate when it differs from the host of the address. Not for HTTP.
    pub server_name: Option<String>,
}

impl TlsConfig {
    pub fn read(section: &mut Section) -> TlsConfig {
        let Some(mut tls) = section.section("tls") else { return TlsConfig::default() };
        let line = tls.line();
        let ca_file = tls.text("ca_file").map(PathBuf::from);
        let (crt_file, key_file) = (tls.text("crt_file").map(PathBuf::from), tls.text("key_file").map(PathBuf::from));
        let server_name = tls.text_at("server_name");
        if crt_file.is_some() != key_file.is_some() {
            let missing = if crt_file.is_none() { "crt_file" } else { "key_file" };
            tls.fault(line, "", format!("`{missing}` is missing; crt_file and key_file go together"));
        }
        if let Some((line, name)) = &server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            tls.fault(*line, name, "not a server name; write a DNS name or an IP address");
        }
        tls.reject_unknown_keys();
        TlsConfig { ca_file, identity: crt_file.zip(key_file), server_name: server_name.map(|(_, name)| name) }
    }

    /// Reports `server_name` as a fault: over HTTP, the name in the URL is checked.
    pub fn forbid_server_name(&self, section: &mut Section, line: u32) {
        if let Some(name) = &self.server_name {
            section.fault(line, name, "`server_name` is not possible with https; write that name into the address");
        }
    }

    /// For connections that may be plain: the CA certificates of the machine are needed only where `uses_tls`.
    ///
    /// # Errors
    /// Returns the errors of [`TlsConfig::client`].
    pub fn client_where(&self, uses_tls: bool) -> SinkResult<Arc<ClientConfig>> {
        if uses_tls {
            return self.client();
        }
        let builder = client_builder().map_err(|error| unusable(&error))?;
        Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
    }

    /// Reads the files at each call, so the next connection uses a renewed certificate.
    ///
    /// # Errors
    /// Returns `Misconfigured` with the file's name, or when the machine has no CA certificates.
    pub fn client(&self) -> SinkResult<Arc<ClientConfig>> {
        let unusable = |error: rustls::Error| unusable(&error);
        let builder = client_builder().map_err(unusable)?;
        let builder = match &self.ca_file {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| {
                        SinkError::misconfigured(format!("cannot use ca_file {}: {error}", path.display()))
                    })?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_platform_verifier().map_err(unusable)?,
        };
        let config = match &self.identity {
            Some((crt_file, key_file)) => {
                let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
                    SinkError::misconfigured(format!("cannot read key_file {}: {error}", key_file.display()))
                })?;
                builder.with_client_auth_cert(certificates(crt_file)?, key).map_err(unusable)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    /// The name that the server's certificate must have.
    ///
    /// # Errors
    /// Returns `Misconfigured` if it is not a valid name.
    pub fn server_name(&self, host: &str) -> SinkResult<ServerName<'static>> {
        let name = self.server_name.as_deref().unwrap_or(host).to_owned();
        ServerName::try_from(name.clone())
            .map_err(|_| SinkError::misconfigured(format!("`{name}` is not a server name; set tls.server_name")))
    }
}

fn client_builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()
}

fn unusable(error: &rustls::Error) -> SinkError {
    match ca_store::is_missing(error) {
        true => SinkError::misconfigured(ca_store::MISSING),
        false => SinkError::misconfigured(format!("cannot use the tls settings: {error}")),
    }
}

/// The error of a failed connection, with the text `message`. An operator must act if the sink does not accept the
/// receiver's certificate, or if the receiver rejects the sink's certificate.
pub(crate) fn handshake_fault(message: String, error: &(dyn std::error::Error + 'static)) -> SinkError {
    match find_tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) => {
            SinkError::misconfigured(message)
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            SinkError::misconfigured(format!("{message}; does that port speak TLS?"))
        }
        _ => SinkError::retry(message),
    }
}

/// The TLS error among the causes. The error inside an I/O error is not its source, so both are followed.
fn find_tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    None
}

fn certificates(path: &PathBuf) -> SinkResult<Vec<CertificateDer<'static>>> {
    let read = |error| SinkError::misconfigured(format!("cannot read certificates from {}: {error}", path.display()));
    let list: Vec<_> = CertificateDer::pem_file_iter(path).map_err(read)?.collect::<Result<_, _>>().map_err(read)?;
    match list.is_empty() {
        true => Err(SinkError::misconfigured(format!("{} contains no PEM certificate", path.display()))),
        false => Ok(list),
    }
}
