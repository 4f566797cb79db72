//! Reads the PEM files of `tls`. A file of another kind is a fault that names the kind and the command that converts
//! it. Called when a sink connects.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use domain::secret::Reference;
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{SinkError, SinkResult};

/// Longest file. Chosen: the CA certificates of a whole machine have 250 KB.
const FILE_BYTES_MAX: u64 = 16 << 20;

const CERTIFICATE_LINE: &str = "-----BEGIN CERTIFICATE-----";
const ENCRYPTED_LABEL: &str = "ENCRYPTED PRIVATE KEY-----";

/// `tls.key_password`: the password, or a reference to it (`env:NAME`, `file:/path`). Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPassword(String);

impl fmt::Debug for KeyPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl KeyPassword {
    /// # Errors
    /// One sentence, for a reference that a sink does not resolve.
    pub(crate) fn parse(text: String) -> Result<KeyPassword, String> {
        match Reference::parse(&text) {
            Some(reference @ (Reference::Parameter(_) | Reference::Secret { .. })) => Err(format!(
                "`key_password` is {reference}, but sinks read no secrets from AWS; write env:NAME or file:/path"
            )),
            _ => Ok(KeyPassword(text)),
        }
    }

    fn resolve(&self) -> SinkResult<String> {
        let unusable = |message: String| SinkError::misconfigured(format!("tls.key_password: {message}"));
        match Reference::parse(&self.0) {
            Some(Reference::Variable(name)) => std::env::var(&name)
                .map_err(|_| unusable(format!("the variable {name} is not set; set it for Sexton, or use file:/path"))),
            Some(Reference::File(path)) => {
                let bytes = read("key_password", Path::new(&path))?;
                let text = String::from_utf8(bytes).map_err(|_| unusable(format!("{path} is not text")))?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
            _ => Ok(self.0.clone()),
        }
    }
}

/// The certificates of a PEM file, at least one. `key` names the option in faults.
///
/// # Errors
/// `Misconfigured`: the path, the defect and the remedy.
pub(crate) fn certificates(key: &str, path: &Path) -> SinkResult<Vec<CertificateDer<'static>>> {
    let bytes = read(key, path)?;
    let list = CertificateDer::pem_slice_iter(without_mark(&bytes)).collect::<Result<Vec<_>, _>>();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) | Err(pem::Error::NoItemsFound) => Err(fault(key, path, &no_certificate(path, &bytes))),
        Err(error) => Err(fault(key, path, &damaged(&error))),
    }
}

/// The private key of a PEM file, decrypted.
///
/// # Errors
/// `Misconfigured`: the path, the defect and the remedy.
pub(crate) fn private_key(path: &Path, password: Option<&KeyPassword>) -> SinkResult<PrivateKeyDer<'static>> {
    const KEY: &str = "key_file";
    let bytes = read(KEY, path)?;
    let text = String::from_utf8_lossy(without_mark(&bytes));
    if text.contains(ENCRYPTED_LABEL) {
        let password = password.ok_or_else(|| fault(KEY, path, "is encrypted; set tls.key_password"))?.resolve()?;
        // The same bytes under a label that the parser reads.
        let encrypted = PrivatePkcs8KeyDer::from_pem_slice(text.replace("ENCRYPTED PRIVATE", "PRIVATE").as_bytes());
        let encrypted = encrypted.map_err(|error| fault(KEY, path, &damaged(&error)))?;
        return decrypted(encrypted.secret_pkcs8_der(), &password).map_err(|message| fault(KEY, path, &message(path)));
    }
    if text.contains("Proc-Type:") && text.contains("ENCRYPTED") {
        return Err(fault(KEY, path, &format!("is encrypted in an old form; {}", convert_key("", path))));
    }
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(fault(KEY, path, &no_key(path, &bytes, &text))),
        Err(error) => Err(fault(KEY, path, &damaged(&error))),
    }
}

fn decrypted(der: &[u8], password: &str) -> Result<PrivateKeyDer<'static>, fn(&Path) -> String> {
    let unsupported: fn(&Path) -> String =
        |path| format!("is encrypted in a form that is not supported; {}", convert_key("", path));
    let wrong: fn(&Path) -> String = |path| {
        format!(
            "cannot be decrypted with tls.key_password; check the password with `openssl pkey -in {} -noout`",
            path.display()
        )
    };
    let info = EncryptedPrivateKeyInfoRef::try_from(der).map_err(|_| unsupported)?;
    if info.encryption_algorithm.pbes2().is_none() {
        return Err(unsupported);
    }
    let document = info.decrypt(password).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { .. }) => unsupported,
        _ => wrong,
    })?;
    Ok(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_bytes().to_vec())))
}

fn read(key: &str, path: &Path) -> SinkResult<Vec<u8>> {
    // Opening a FIFO without this flag waits for a writer.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let cannot_read = |error: &std::io::Error| {
        let why = match error.kind() {
            ErrorKind::NotFound => "does not exist; correct the path, or put the file there".to_owned(),
            ErrorKind::PermissionDenied => {
                let user = rustix::process::geteuid().as_raw();
                format!(
                    "cannot be read by user {user}, as which Sexton runs; give that user access with chown or chmod"
                )
            }
            _ => format!("cannot be read: {}; check its file system", domain::system_error::plain_text(error)),
        };
        fault(key, path, &why)
    };
    let file = opened.map_err(|error| cannot_read(&error))?;
    let metadata = file.metadata().map_err(|error| cannot_read(&error))?;
    if metadata.is_dir() {
        return Err(fault(key, path, "is a directory; write the path of a file in it"));
    }
    if !metadata.is_file() {
        return Err(fault(key, path, "is not a regular file; write the path of one"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot_read(&error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(key, path, "is longer than 16 MiB; is it the right file?"));
    }
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(fault(key, path, "is empty; write the path of the right file, or fill it"));
    }
    Ok(bytes)
}

fn fault(key: &str, path: &Path, why: &str) -> SinkError {
    SinkError::misconfigured(format!("tls.{key}: {} {why}", path.display()))
}

/// Editors of other systems begin a text with this mark of UTF-8.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

fn damaged(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "has no line that begins with -----END; copy the file again".to_owned(),
        pem::Error::IllegalSectionStart { .. } => {
            "has a line that begins with -----BEGIN and does not end with -----; copy the file again".to_owned()
        }
        pem::Error::Base64Decode(_) => {
            "has a line between -----BEGIN and -----END that is not base64; copy the file again".to_owned()
        }
        // pem::Error::SectionTooLarge cannot be: the files are limited to 16 MiB.
        _ => "is a damaged PEM file; copy the file again".to_owned(),
    }
}

/// The kind of a file that is not PEM, by its first bytes.
enum Binary {
    Certificate,
    Key,
    Pkcs12,
}

/// X.509, PKCS #8, PKCS #1, SEC 1 and PKCS #12 are sequences (0x30); their first element tells them apart.
fn binary_kind(bytes: &[u8]) -> Option<Binary> {
    let element = |bytes: &[u8]| -> Option<usize> {
        match bytes.get(1)? {
            length @ 0x81..=0x84 => Some(2 + usize::from(length & 0x7f)),
            // 0x80: the length is not known, as some writers of PKCS #12 do.
            _ => Some(2),
        }
    };
    if bytes.first() != Some(&0x30) {
        return None;
    }
    let inner = bytes.get(element(bytes)?..)?;
    match inner {
        [0x02, 0x01, 0x03, ..] => Some(Binary::Pkcs12),
        [0x02, 0x01, 0x00 | 0x01, ..] => Some(Binary::Key),
        // An algorithm comes first in an encrypted key.
        [0x30, ..] if inner.get(element(inner)?) == Some(&0x06) => Some(Binary::Key),
        [0x30, ..] => Some(Binary::Certificate),
        _ => None,
    }
}

fn convert_key(options: &str, path: &Path) -> String {
    let path = path.display();
    format!("convert it with `openssl pkcs8 -topk8 -v2 aes256{options} -in {path} -out {path}.p8`, and use {path}.p8")
}

fn no_certificate(path: &Path, bytes: &[u8]) -> String {
    let shown = path.display();
    let text = String::from_utf8_lossy(bytes);
    let convert = |command: &str| format!("convert it with `openssl {command} -in {shown} -out {shown}.pem`");
    let kind = [
        ("PRIVATE KEY-----", "holds a private key and no certificate; write the path of the certificate".to_owned()),
        (
            "BEGIN PUBLIC KEY-----",
            "holds a public key and no certificate; write the path of the certificate".to_owned(),
        ),
        (
            "CERTIFICATE REQUEST-----",
            "holds a request for a certificate; write the path of the certificate that was signed from it".to_owned(),
        ),
        ("BEGIN TRUSTED CERTIFICATE-----", format!("is in OpenSSL's own form; {}", convert("x509"))),
        ("BEGIN PKCS7-----", format!("is PKCS #7; {}", convert("pkcs7 -print_certs"))),
        ("BEGIN X509 CRL-----", "is a revocation list; write the path of a certificate".to_owned()),
    ];
    if let Some((_, message)) = kind.into_iter().find(|(label, _)| text.contains(label)) {
        return message;
    }
    match binary_kind(bytes) {
        Some(Binary::Certificate) => format!("is DER; {}", convert("x509 -inform der")),
        Some(Binary::Pkcs12) => format!("is PKCS #12; {}", convert("pkcs12 -nokeys")),
        Some(Binary::Key) => "is a private key in DER; write the path of a certificate in PEM".to_owned(),
        None if is_utf16(bytes) => "is UTF-16; save it as plain text (ASCII or UTF-8)".to_owned(),
        None => format!("holds no certificate in PEM (no line {CERTIFICATE_LINE}); is it the right file?"),
    }
}

fn no_key(path: &Path, bytes: &[u8], text: &str) -> String {
    let shown = path.display();
    let kind = [
        ("CERTIFICATE-----", "holds a certificate and no private key; write the path of the key"),
        ("BEGIN PUBLIC KEY-----", "holds a public key and no private key; write the path of the private key"),
        ("CERTIFICATE REQUEST-----", "holds a request for a certificate and no private key; write the path of the key"),
        ("BEGIN OPENSSH PRIVATE KEY-----", "is a key of OpenSSH; make a key with `openssl genpkey -algorithm RSA`"),
        ("PARAMETERS-----", "holds parameters and no private key; write the path of the key"),
    ];
    if let Some((_, message)) = kind.into_iter().find(|(label, _)| text.contains(label)) {
        return message.to_owned();
    }
    match binary_kind(bytes) {
        Some(Binary::Key) => format!("is DER; {}", convert_key(" -inform der", path)),
        Some(Binary::Pkcs12) => {
            format!("is PKCS #12; convert it with `openssl pkcs12 -nocerts -nodes -in {shown} -out {shown}.key`")
        }
        Some(Binary::Certificate) => "is a certificate in DER; write the path of the private key in PEM".to_owned(),
        None if is_utf16(bytes) => "is UTF-16; save it as plain text (ASCII or UTF-8)".to_owned(),
        None => {
            "holds no private key in PEM (no line that ends with PRIVATE KEY-----); is it the right file?".to_owned()
        }
    }
}

fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}
