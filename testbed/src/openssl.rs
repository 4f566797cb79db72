//! The `openssl` of this machine: makes certificates and keys for one test, and serves TLS (`openssl s_server`), which
//! prints what it receives.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::installation::certificates;
use crate::listeners::{Addresses, free_port};
use crate::process::{Process, Program};
use crate::wait::{DEADLINE, holds_within};

/// The settings of `openssl ca`, which alone can date a certificate freely.
const CA_SETTINGS: &str = "[ca]\ndefault_ca=own\n[own]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\n\
                           default_md=sha256\npolicy=any\nunique_subject=no\n[any]\ncommonName=supplied\n";

/// A folder with certificates and keys.
#[derive(Debug)]
pub struct Openssl {
    folder: tempfile::TempDir,
}

impl Openssl {
    /// `None` when the machine has no openssl.
    pub fn new() -> Option<Openssl> {
        // The setup makes these with the same program.
        certificates()?;
        let folder = tempfile::TempDir::with_prefix("testbed-").expect("a temporary folder can be made");
        Some(Openssl { folder })
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command of openssl in the folder; its arguments are separated by spaces.
    #[track_caller]
    pub fn run(&self, arguments: &str) {
        let output = Command::new("openssl").args(arguments.split(' ')).current_dir(self.folder.path()).output();
        let output = output.expect("openssl starts");
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The usual self-signed certificate: NAME.pem and NAME.key, with `CN=COMMON_NAME`, and with a subjectAltName if
    /// one is given.
    #[track_caller]
    pub fn self_signed(&self, name: &str, common_name: &str, alternative: Option<&str>) {
        let alternative = alternative.map_or_else(String::new, |names| format!(" -addext subjectAltName={names}"));
        self.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout {name}.key -out {name}.pem \
             -subj /CN={common_name}{alternative}"
        ));
    }

    /// A self-signed certificate that is valid between two instants like `20200101000000Z`.
    #[track_caller]
    pub fn self_signed_between(&self, name: &str, start: &str, end: &str) {
        let write = |file: &str, text: &str| std::fs::write(self.path(file), text).expect("the folder is writable");
        write("ca.cnf", CA_SETTINGS);
        write("index.txt", "");
        write("serial", "01");
        write("ext.cnf", "basicConstraints=critical,CA:TRUE\nsubjectAltName=IP:127.0.0.1\n");
        self.run(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.run(&format!(
            "ca -config ca.cnf -batch -notext -selfsign -keyfile {name}.key -in {name}.csr -out {name}.pem \
             -extfile ext.cnf -startdate {start} -enddate {end}"
        ));
    }

    /// The SHA-256 fingerprint of a certificate, as openssl prints it.
    #[track_caller]
    pub fn fingerprint(&self, certificate: &Path) -> String {
        let output = Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(certificate)
            .output()
            .expect("openssl starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.trim().to_owned()
    }
}

/// A running `openssl s_server`.
#[derive(Debug)]
pub struct OpensslServer {
    process: Process,
}

impl OpensslServer {
    /// Serves NAME.pem with NAME.key of the folder; `options` are further options of `s_server`.
    #[track_caller]
    pub fn start(folder: &Openssl, name: &str, options: &str) -> OpensslServer {
        let (certificate, key) = (folder.path(&format!("{name}.pem")), folder.path(&format!("{name}.key")));
        OpensslServer::start_with(&certificate, &key, options)
    }

    /// Serves a certificate with its key.
    #[track_caller]
    pub fn start_with(certificate: &Path, key: &Path, options: &str) -> OpensslServer {
        let process = Process::start(|_| {
            let address = free_port();
            // The server ends with its standard input.
            let script = "exec openssl s_server \"$@\" < <(exec sleep infinity)";
            let mut arguments = vec!["-c".to_owned(), script.to_owned(), "bash".to_owned()];
            let files =
                ["-cert", &certificate.display().to_string(), "-key", &key.display().to_string()].map(str::to_owned);
            arguments.extend(files);
            arguments.extend(["-accept".to_owned(), address.to_string(), "-quiet".to_owned()]);
            arguments.extend(options.split_whitespace().map(str::to_owned));
            let addresses = Addresses { tls: Some(address), ..Addresses::default() };
            Program { path: "/bin/bash".into(), arguments, addresses }
        });
        OpensslServer { process }
    }

    /// Where it accepts TLS connections.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        self.process.addresses().tls.expect("the server has one")
    }

    /// Waits until it has received a text.
    ///
    /// # Panics
    /// When the text does not arrive in time.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let found = holds_within(DEADLINE, || self.process.diagnostics().contains(text));
        assert!(found, "`{text}` was not received: {}", self.process.diagnostics());
    }
}
