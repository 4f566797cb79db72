//! Every certificate and key that openssl makes and TLS refuses here has its sentence: what is wrong, and the remedy.
//! What a user reads is the fault of `sexton check`.

use std::fs;

use testbed::{Openssl, OpensslServer};

use crate::http_faults::assert_plain;
use crate::memory::{RETRY, config};

const NEW_EC: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";

fn sink(address: impl std::fmt::Display, tls: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp+tls://{address}\"\ntls = {{ {tls} }}\n{RETRY}")
}

async fn fault(toml: &str) -> String {
    let fault = sinks::check::check(&config(toml), "g").await.expect_err("a fault");
    assert_plain(&fault);
    fault
}

/// A certificate NAME.pem that `authority` signs, with a key that `genpkey` makes.
fn signed(openssl: &Openssl, name: &str, authority: &str, key: &str, sign: &str, extensions: &str) {
    fs::write(openssl.path("ext.cnf"), format!("subjectAltName=IP:127.0.0.1\n{extensions}")).expect("written");
    openssl.run(&format!("genpkey {key} -out {name}.key"));
    openssl.run(&format!("req -new -key {name}.key -out {name}.csr -subj /CN={name}"));
    openssl.run(&format!(
        "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -days 30{sign} -extfile ext.cnf -out {name}.pem"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_refused_has_plain_words_and_a_remedy() {
    let Some(openssl) = Openssl::new() else { return };
    const EC: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    let name = |name: &str| format!("-keyout {name}.key -out {name}.pem -subj /CN={name}");
    openssl.run(&format!("{NEW_EC} {}", name("ca")));
    openssl.run(&format!("req -x509 -newkey rsa:1024 -nodes -days 30 {}", name("weakca")));
    openssl.run(&format!("req -x509 -newkey rsa:2048 -nodes -days 30 {}", name("rsaca")));
    openssl
        .run(&format!("{NEW_EC} {} -addext nameConstraints=critical,permitted;IP:10.0.0.0/255.0.0.0", name("namedca")));
    // In the order: name, authority, key, signature, extensions, text.
    for (name, authority, key, sign, extensions, part) in [
        (
            "critical",
            "ca",
            EC,
            "",
            "1.2.3.4=critical,ASN1:NULL\n",
            "its certificate has an extension that is marked critical",
        ),
        (
            "rsa1024",
            "ca",
            "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
            "",
            "",
            "its certificate has an RSA key of 1024 bits",
        ),
        ("weak", "weakca", EC, "", "", "its certificate is signed by an authority with an RSA key of 1024 bits"),
        ("sha1", "rsaca", EC, " -sha1", "", "is signed with SHA-1, which is not accepted; sign it with SHA-256"),
        ("sha224", "rsaca", EC, " -sha224", "", "is signed with SHA-224, which is not accepted"),
        (
            "client",
            "ca",
            EC,
            "",
            "extendedKeyUsage=clientAuth\n",
            "is not made for servers (extended key usage); make one",
        ),
        ("names", "namedca", EC, "", "", "a name for which its authority may not sign (nameConstraints)"),
    ] {
        signed(&openssl, name, authority, key, sign, extensions);
        // The programs of the machine refuse some of them, too, without this.
        let server = OpensslServer::start(&openssl, name, "-cipher ALL:@SECLEVEL=0");
        let ca = format!("ca_file = \"{}\"", openssl.path(&format!("{authority}.pem")).display());
        let refused = fault(&sink(server.address(), &ca)).await;
        assert!(refused.starts_with(&format!("tcp+tls://{}: its certificate", server.address())), "{name}: {refused}");
        assert!(refused.contains(part) && refused.contains("; "), "{name}: {refused}");
    }
    // A pinned certificate is read, too.
    for name in ["critical", "rsa1024"] {
        let server = OpensslServer::start(&openssl, name, "-cipher ALL:@SECLEVEL=0");
        for pin in [
            format!("ca_file = \"{}\"", openssl.path(&format!("{name}.pem")).display()),
            format!("fingerprint = \"{}\"", openssl.fingerprint(&openssl.path(&format!("{name}.pem")))),
        ] {
            let refused = fault(&sink(server.address(), &pin)).await;
            let part = if name == "critical" { "marked critical" } else { "an RSA key of 1024 bits" };
            assert!(refused.contains(part), "{pin}: {refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_whose_kind_of_key_is_not_accepted_ends_the_handshake_and_the_fault_names_the_kinds() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("ca", "ca", None);
    // The certificate of a receiver that needs a kind of key that no client here accepts is never seen.
    for (name, key) in
        [("ed448", "-algorithm ED448"), ("secp256k1", "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1")]
    {
        signed(&openssl, name, "ca", key, "", "");
        let server = OpensslServer::start(&openssl, name, "");
        let refused = fault(&sink(server.address(), "")).await;
        assert!(
            refused.contains("a certificate without an RSA key of 2048 to 8192 bits, or an EC key"),
            "{name}: {refused}"
        );
    }
}

#[test]
fn the_verifier_of_the_machines_authorities_has_plain_words_too() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("ca", "ca", None);
    const EC: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    signed(&openssl, "client", "ca", EC, "", "extendedKeyUsage=clientAuth\n");
    let server = OpensslServer::start(&openssl, "client", "");
    testbed::with_variables(&[("SSL_CERT_FILE", &openssl.path("ca.pem").display().to_string())], || {
        tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let refused = fault(&sink(server.address(), "")).await;
            assert!(refused.contains("is not made for servers (extended key usage); make one with"), "{refused}");
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_or_client_certificate_that_cannot_be_used_is_named_with_its_kind() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("good", "good", None);
    for (name, key, kind) in [
        ("rsa1024", "-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "an RSA key of 1024 bits"),
        ("ed448", "-algorithm ED448", "an Ed448 key"),
        ("secp256k1", "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1", "an EC key on secp256k1"),
        ("brainpool", "-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1", "an EC key on brainpoolP256r1"),
        (
            "explicit",
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
            "an EC key with explicit parameters",
        ),
        ("pss", "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048", "a key for RSA-PSS alone"),
    ] {
        openssl.run(&format!("genpkey {key} -out {name}.key"));
        openssl.run(&format!("req -x509 -key {name}.key -days 30 -out {name}.pem -subj /CN={name}"));
        let identity = |crt: &str, key: &str| {
            let path = |name: &str| openssl.path(name).display().to_string();
            sink("127.0.0.1:9", &format!("crt_file = \"{}\", key_file = \"{}\"", path(crt), path(key)))
        };
        let own = fault(&identity(&format!("{name}.pem"), &format!("{name}.key"))).await;
        let place =
            format!("tls.crt_file: {}: its certificate has {kind}", openssl.path(&format!("{name}.pem")).display());
        assert!(own.starts_with(&place) && own.contains("; make a new certificate with an RSA key of 2048"), "{own}");
        // The library reads a private key with these parameters.
        let kind = if name == "explicit" {
            "is not the key of the first certificate".to_owned()
        } else {
            format!("holds {kind}, which is not accepted; make")
        };
        let other = fault(&identity("good.pem", &format!("{name}.key"))).await;
        assert!(
            other.contains(&format!("tls.key_file: {}", openssl.path(&format!("{name}.key")).display())),
            "{other}"
        );
        assert!(other.contains(&kind), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_with_its_remedy() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("good", "good", None);
    let pem = fs::read_to_string(openssl.path("good.pem")).expect("a certificate");
    let key = fs::read_to_string(openssl.path("good.key")).expect("a key");
    for (name, key, content, part) in [
        ("base64.pem", "ca_file", pem.replacen("MII", "M!I", 1), "that is not base64; copy the file again"),
        ("der.pem", "ca_file", damaged(&pem), "its certificate is damaged; copy it again"),
        ("second.pem", "ca_file", format!("{pem}{}", damaged(&pem)), "its certificate 2 is damaged; copy it again"),
        ("start.pem", "ca_file", pem.replacen("CERTIFICATE-----", "CERTIFICATE", 1), "copy the file again"),
        (
            "key.pem",
            "key_file",
            damaged(&key),
            "holds a damaged key, or one of an unknown kind; check it with `openssl",
        ),
    ] {
        let path = openssl.path(name);
        fs::write(&path, content).expect("written");
        let crt = if key == "key_file" {
            format!("crt_file = \"{}\", ", openssl.path("good.pem").display())
        } else {
            String::new()
        };
        let refused = fault(&sink("127.0.0.1:9", &format!("{crt}{key} = \"{}\"", path.display()))).await;
        assert!(refused.starts_with(&format!("tls.{key}: {}", path.display())), "{name}: {refused}");
        assert!(refused.contains(part), "{name}: {refused}");
    }
    openssl.run("req -new -key good.key -subj /CN=old -out old.csr");
    openssl.run("x509 -req -in old.csr -signkey good.key -days 30 -out v1.pem");
    let v1 = format!(
        "crt_file = \"{}\", key_file = \"{}\"",
        openssl.path("v1.pem").display(),
        openssl.path("good.key").display()
    );
    let refused = fault(&sink("127.0.0.1:9", &v1)).await;
    assert!(
        refused.contains("its certificate is X.509 version 1, which TLS libraries refuse; make a new"),
        "{refused}"
    );
}

/// The same PEM, with other bytes in the middle of its content.
fn damaged(pem: &str) -> String {
    let mut lines: Vec<&str> = pem.lines().collect();
    let first = lines.iter().position(|line| line.starts_with("-----BEGIN")).expect("a section") + 1;
    lines.remove(first);
    lines.join("\n") + "\n"
}
