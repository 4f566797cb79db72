//! The files of `tls`: encrypted keys, and files of a wrong kind. What a user reads is the fault of `sexton check`.

use std::fs;
use std::path::Path;

use domain::line::Stream;
use testbed::{Openssl, OpensslServer, certificates};

use crate::memory::{RETRY, Run, config, start};

fn sink(address: impl std::fmt::Display, tls: &str) -> String {
    format!("[sink.a]\ntype = \"syslog\"\naddress = \"tcp+tls://{address}\"\ntls = {{ {tls} }}\n{RETRY}")
}

async fn fault(toml: &str) -> String {
    sinks::check::check(&config(toml), "g").await.expect_err("a fault")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_password_is_decrypted_or_the_fault_has_the_command_that_converts_it() {
    let Some(openssl) = Openssl::new() else { return };
    let Some(certificates) = certificates() else { return };
    let options = format!("-Verify 2 -verify_return_error -CAfile {}", certificates.ca.display());
    let server = OpensslServer::start_with(&certificates.server, &certificates.server_key, &options);
    let plain = certificates.client_key.display().to_string();
    fs::write(openssl.path("password"), "geheim\n").expect("written");
    let tls = |key: &Path, password: &str| {
        let (ca, crt) = (certificates.ca.display(), certificates.client.display());
        format!("ca_file = \"{ca}\", crt_file = \"{crt}\", key_file = \"{}\"{password}", key.display())
    };
    let reference = format!(", key_password = \"file:{}\"", openssl.path("password").display());
    let given = ", key_password = \"geheim\"".to_owned();
    for (index, (form, password)) in [
        ("-v2 aes256", &given),
        ("-v2 des3", &reference),
        ("-v2 aes128 -v2prf hmacWithSHA1", &given),
        ("-scrypt -scrypt_N 1024", &given),
    ]
    .into_iter()
    .enumerate()
    {
        let key = openssl.path(&format!("{index}.key"));
        let out = key.display();
        openssl.run(&format!("pkcs8 -topk8 {form} -in {plain} -out {out} -passout pass:geheim"));
        let (engine, _events) = start(&sink(server.address(), &tls(&key, password)));
        let run = Run::new(1);
        run.print(Stream::Stdout, format!("with {form}").as_bytes());
        engine.add(run.feed());
        tokio::task::block_in_place(|| server.wait_for(&format!("with {form}")));
        engine.shutdown().await;
        let wrong = fault(&sink(server.address(), &tls(&key, ", key_password = \"falsch\""))).await;
        assert!(wrong.contains(&format!("tls.key_file: {out} cannot be decrypted with tls.key_password")), "{wrong}");
        assert!(!wrong.contains("falsch"), "{wrong}");
        let none = fault(&sink(server.address(), &tls(&key, ""))).await;
        assert_eq!(none, format!("tls.key_file: {out} is encrypted; set tls.key_password"));
    }
    // Older forms: the command in the fault makes a key that works.
    openssl.run(&format!("ec -aes256 -in {plain} -out old.key -passout pass:geheim"));
    openssl.run(&format!("pkcs8 -topk8 -v1 PBE-SHA1-3DES -in {plain} -out pbes1.key -passout pass:geheim"));
    for name in ["old.key", "pbes1.key"] {
        let refused = fault(&sink(server.address(), &tls(&openssl.path(name), &given))).await;
        let command = refused.split("`openssl ").nth(1).and_then(|rest| rest.split('`').next()).expect(&refused);
        openssl.run(&format!("{command} -passin pass:geheim -passout pass:geheim"));
        let converted = openssl.path(&format!("{name}.p8"));
        assert!(refused.ends_with(&format!("and use {}", converted.display())), "{refused}");
        let (engine, _events) = start(&sink(server.address(), &tls(&converted, &given)));
        let run = Run::new(1);
        run.print(Stream::Stdout, format!("converted {name}").as_bytes());
        engine.add(run.feed());
        tokio::task::block_in_place(|| server.wait_for(&format!("converted {name}")));
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_wrong_kind_is_named_with_its_remedy() {
    let Some(openssl) = Openssl::new() else { return };
    openssl.self_signed("a", "a", None);
    openssl.self_signed("b", "b", None);
    openssl.run("x509 -in a.pem -outform der -out a.der");
    openssl.run("pkey -in a.key -outform der -out key.der");
    openssl.run("pkcs12 -export -in a.pem -inkey a.key -out a.p12 -passout pass:x");
    openssl.run("crl2pkcs7 -nocrl -certfile a.pem -out a.p7");
    openssl.run("req -new -key a.key -subj /CN=a -out a.csr");
    openssl.run("pkey -in a.key -pubout -out a.pub");
    let pem = fs::read_to_string(openssl.path("a.pem")).expect("a certificate");
    for (name, content) in [("empty", ""), ("blank", "\n\n"), ("text", "hello\n"), ("cut", &pem[..200])] {
        fs::write(openssl.path(name), content).expect("written");
    }
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(pem.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    fs::write(openssl.path("utf16"), utf16).expect("written");
    fs::create_dir(openssl.path("folder")).expect("made");
    let shown = |name: &str| openssl.path(name).display().to_string();
    let check = async |key: &str, name: &str, tls: String, part: &str| {
        let refused = fault(&sink("127.0.0.1:1", &tls)).await;
        assert!(refused.starts_with(&format!("tls.{key}: {} {part}", shown(name))), "{key} {name}: {refused}");
    };
    for (name, part) in [
        ("a.key", "holds a private key and no certificate; "),
        ("a.csr", "holds a request for a certificate; "),
        ("a.pub", "holds a public key and no certificate; "),
        ("a.der", "is DER; convert it with `openssl x509 -inform der -in "),
        ("a.p12", "is PKCS #12; convert it with `openssl pkcs12 -nokeys -in "),
        ("a.p7", "is PKCS #7; convert it with `openssl pkcs7 -print_certs -in "),
        ("key.der", "is a private key in DER; "),
        ("empty", "is empty; "),
        ("blank", "is empty; "),
        ("text", "holds no certificate in PEM (no line -----BEGIN CERTIFICATE-----); "),
        ("cut", "has no line that begins with -----END; "),
        ("utf16", "is UTF-16; "),
        ("folder", "is a directory; "),
        ("missing", "does not exist; "),
    ] {
        check("ca_file", name, format!("ca_file = \"{}\"", shown(name)), part).await;
        let tls = format!("ca_file = \"{0}\", crt_file = \"{1}\", key_file = \"{0}\"", shown("a.pem"), shown(name));
        check("crt_file", name, tls, part).await;
    }
    for (name, part) in [
        ("a.pem", "holds a certificate and no private key; "),
        ("a.pub", "holds a public key and no private key; "),
        ("a.der", "is a certificate in DER; "),
        ("key.der", "is DER; convert it with `openssl pkcs8 -topk8 -v2 aes256 -inform der -in "),
        ("a.p12", "is PKCS #12; convert it with `openssl pkcs12 -nocerts -nodes -in "),
        ("b.key", "is not the key of the first certificate in "),
        ("empty", "is empty; "),
        ("text", "holds no private key in PEM "),
        ("folder", "is a directory; "),
        ("missing", "does not exist; "),
    ] {
        let (crt, key) = (shown("a.pem"), shown(name));
        let tls = format!("ca_file = \"{crt}\", crt_file = \"{crt}\", key_file = \"{key}\"");
        check("key_file", name, tls, part).await;
    }
    // A byte order mark does not matter.
    fs::write(openssl.path("mark"), format!("\u{feff}{pem}")).expect("written");
    let server = OpensslServer::start(&openssl, "a", "");
    let (engine, _events) = start(&sink(server.address(), &format!("ca_file = \"{}\"", shown("mark"))));
    let run = Run::new(1);
    run.print(Stream::Stdout, b"with a mark");
    engine.add(run.feed());
    tokio::task::block_in_place(|| server.wait_for("with a mark"));
    engine.shutdown().await;
}
