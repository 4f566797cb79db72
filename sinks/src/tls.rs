//! TLS of the sinks that support it: the keys of `tls`, and the client configuration that they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::ca_store;
use domain::document::Section;
use rustls::client::ResolvesClientCert;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;

use crate::certificate_faults::{certificate_defect, defect_alone};
use crate::error::{SinkError, SinkResult};
use crate::foreign_names;
use crate::key_kinds::{ACCEPTED_KEYS, unsupported_private_key};
use crate::tls_files::{self, KeyPassword};
use crate::tls_verifier::{Fingerprint, ReceiverVerifier};

/// `tls = { ca_file, fingerprint, crt_file, key_file, key_password, server_name }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of trusted certificates. Absent: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the only accepted certificate.
    pub fingerprint: Option<Fingerprint>,
    /// PEM files of the certificate for servers that request one, and of its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Password of an encrypted key.
    pub key_password: Option<KeyPassword>,
    /// Name in the server's certificate when it differs from the host of the address. Not for HTTP.
    pub server_name: Option<String>,
}

/// The configuration of one connection, and whether its server requested a client certificate.
pub(crate) struct TlsClient {
    pub config: Arc<ClientConfig>,
    pub certificate_requested: Arc<AtomicBool>,
}

impl TlsConfig {
    pub fn read(section: &mut Section) -> TlsConfig {
        let Some(mut tls) = section.section("tls") else { return TlsConfig::default() };
        let line = tls.line();
        let ca_file = tls.text("ca_file").map(PathBuf::from);
        let fingerprint = read_fingerprint(&mut tls);
        let (crt_file, key_file) = (tls.text("crt_file").map(PathBuf::from), tls.text("key_file").map(PathBuf::from));
        let password_line = tls.line_of("key_password");
        let key_password = tls
            .text("key_password")
            .and_then(|text| KeyPassword::parse(text).map_err(|message| tls.fault(password_line, "", message)).ok());
        let server_name = tls.text_at("server_name");
        if crt_file.is_some() != key_file.is_some() {
            let missing = if crt_file.is_none() { "crt_file" } else { "key_file" };
            tls.fault(line, "", format!("`{missing}` is missing; crt_file and key_file go together"));
        }
        if key_password.is_some() && key_file.is_none() {
            tls.fault(password_line, "", "`key_password` has no effect without key_file; add it");
        }
        if let Some((line, name)) = &server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            tls.fault(*line, name, "not a server name; write a DNS name or an IP address");
        }
        tls.reject_unknown_keys_by_meaning(foreign_names::tls_key);
        let server_name = server_name.map(|(_, name)| name);
        TlsConfig { ca_file, fingerprint, identity: crt_file.zip(key_file), key_password, server_name }
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
            return self.client().map(|client| client.config);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(&error))?;
        Ok(Arc::new(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()))
    }

    /// Reads the files at each call, so the next connection uses a renewed certificate.
    ///
    /// # Errors
    /// Returns `Misconfigured` with the file's name, or when the machine has no CA certificates.
    pub(crate) fn client(&self) -> SinkResult<TlsClient> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate_requested = Arc::new(AtomicBool::new(false));
        let identity = ClientIdentity { key: self.client_key(&provider)?, requested: certificate_requested.clone() };
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(&error))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = Arc::new(builder.with_client_cert_resolver(Arc::new(identity)));
        Ok(TlsClient { config, certificate_requested })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> SinkResult<ReceiverVerifier> {
        let mut pinned = Vec::new();
        let issuer: Option<Arc<dyn ServerCertVerifier>> = match (&self.ca_file, self.fingerprint) {
            (Some(path), _) => {
                pinned = tls_files::certificates("ca_file", path)?;
                let mut roots = RootCertStore::empty();
                for (index, certificate) in pinned.iter().enumerate() {
                    roots.add(certificate.clone()).map_err(|error| {
                        let subject = match pinned.len() {
                            1 => format!("tls.ca_file: {}: its certificate", path.display()),
                            _ => format!("tls.ca_file: {}: its certificate {}", path.display(), index + 1),
                        };
                        SinkError::misconfigured(match &error {
                            rustls::Error::InvalidCertificate(error) => certificate_defect(error).sentence(&subject),
                            _ => format!("{subject} cannot be used; make it again"),
                        })
                    })?;
                }
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
                Some(verifier.map_err(|_| {
                    let path = path.display();
                    SinkError::misconfigured(format!("tls.ca_file: {path} holds no authority; write another file"))
                })?)
            }
            (None, Some(_)) => None,
            (None, None) => Some(Arc::new(Verifier::new(provider.clone()).map_err(|error| unusable(&error))?)),
        };
        Ok(ReceiverVerifier {
            issuer,
            pinned,
            ca_file: self.ca_file.clone(),
            fingerprint: self.fingerprint,
            algorithms: provider.signature_verification_algorithms,
        })
    }

    fn client_key(&self, provider: &CryptoProvider) -> SinkResult<Option<Arc<CertifiedKey>>> {
        let Some((crt_file, key_file)) = &self.identity else { return Ok(None) };
        let chain: Vec<CertificateDer<'static>> = tls_files::certificates("crt_file", crt_file)?;
        let key = tls_files::private_key(key_file, self.key_password.as_ref())?;
        let (crt_file, key_file) = (crt_file.display(), key_file.display());
        if let Some(defect) = chain.first().and_then(defect_alone) {
            let subject = format!("tls.crt_file: {crt_file}: its certificate");
            return Err(SinkError::misconfigured(defect.sentence(&subject)));
        }
        let unsupported = unsupported_private_key(&key);
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => SinkError::misconfigured(format!(
                "tls.key_file: {key_file} is not the key of the first certificate in {crt_file}; write the client's \
                 own certificate first, and its key into key_file"
            )),
            _ => SinkError::misconfigured(match unsupported {
                Some(kind) => format!(
                    "tls.key_file: {key_file} holds {kind}, which is not accepted; make a certificate and its key with \
                     {ACCEPTED_KEYS}"
                ),
                None => format!(
                    "tls.key_file: {key_file} holds a damaged key, or one of an unknown kind; check it with `openssl \
                     pkey -in {key_file} -noout -text`, and write the path of the key of {crt_file}"
                ),
            }),
        })?;
        Ok(Some(Arc::new(certified)))
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

fn read_fingerprint(tls: &mut Section) -> Option<Fingerprint> {
    let (line, text) = tls.text_at("fingerprint")?;
    Fingerprint::parse(&text).map_err(|message| tls.fault(line, text, message)).ok()
}

fn unusable(error: &rustls::Error) -> SinkError {
    match ca_store::is_missing(error) {
        true => SinkError::misconfigured(ca_store::MISSING),
        false => SinkError::misconfigured(
            "TLS cannot be used on this machine; check its CA certificates (SSL_CERT_FILE, the package ca-certificates)",
        ),
    }
}

/// Presents the client certificate, and notes that the server requested one.
#[derive(Debug)]
struct ClientIdentity {
    key: Option<Arc<CertifiedKey>>,
    requested: Arc<AtomicBool>,
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.requested.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}
