//! Kinds of keys that TLS accepts here, and names for the others. Used for faults of certificates and key files.

use pkcs8::der::asn1::{AnyRef, BitStringRef, UintRef};
use pkcs8::der::{Decode, SliceReader, Tagged};
use pkcs8::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfo};
use rustls_pki_types::PrivateKeyDer;

/// In remedies.
pub(crate) const ACCEPTED_KEYS: &str = "an RSA key of 2048 to 8192 bits, or an EC key on P-256, P-384 or P-521";

/// Sizes of RSA keys whose signatures are verified (aws-lc-rs, RSA_PKCS1_2048_8192).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
/// P-256, P-384, P-521 (RFC 5480).
const CURVES_ACCEPTED: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
const CURVES: [(&str, &str); 7] = [
    ("1.3.132.0.10", "secp256k1"),
    ("1.3.132.0.33", "P-224"),
    ("1.2.840.10045.3.1.1", "P-192"),
    ("1.3.36.3.3.2.8.1.1.7", "brainpoolP256r1"),
    ("1.3.36.3.3.2.8.1.1.11", "brainpoolP384r1"),
    ("1.3.36.3.3.2.8.1.1.13", "brainpoolP512r1"),
    ("1.2.156.10197.1.301", "SM2"),
];
const OTHERS: [(&str, &str); 5] = [
    ("1.3.101.113", "an Ed448 key"),
    ("1.3.101.110", "an X25519 key"),
    ("1.3.101.111", "an X448 key"),
    ("1.2.840.10040.4.1", "a DSA key"),
    ("1.2.840.113549.1.1.10", "a key for RSA-PSS alone"),
];

/// Names a public key (SubjectPublicKeyInfo, DER) of a kind that is not accepted. `None` for accepted kinds, and for
/// those without a name here.
pub(crate) fn unsupported_key(info: &[u8]) -> Option<String> {
    let info = SubjectPublicKeyInfo::<AnyRef<'_>, BitStringRef<'_>>::from_der(info).ok()?;
    unsupported(&info.algorithm, || rsa_bits(info.subject_public_key.as_bytes()?, false))
}

/// As [`unsupported_key`], for a private key.
pub(crate) fn unsupported_private_key(key: &PrivateKeyDer<'_>) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs1(key) => rsa_name(rsa_bits(key.secret_pkcs1_der(), true)?),
        PrivateKeyDer::Pkcs8(key) => {
            let info = pkcs8::PrivateKeyInfoRef::try_from(key.secret_pkcs8_der()).ok()?;
            unsupported(&info.algorithm, || rsa_bits(info.private_key.as_bytes(), true))
        }
        PrivateKeyDer::Sec1(key) => {
            // ECPrivateKey (RFC 5915): version, key, [0] curve.
            let mut content = AnyRef::from_der(key.secret_sec1_der()).ok().map(|any| any.value())?;
            let mut curve = None;
            while let Ok((element, rest)) = AnyRef::from_der_partial(content) {
                if element.tag().is_context_specific() && curve.is_none() {
                    curve = AnyRef::from_der(element.value()).ok();
                }
                content = rest;
            }
            curve_name(curve)
        }
        _ => None,
    }
}

fn unsupported(algorithm: &AlgorithmIdentifierRef<'_>, rsa_bits: impl FnOnce() -> Option<usize>) -> Option<String> {
    match algorithm.oid.to_string().as_str() {
        RSA => rsa_name(rsa_bits()?),
        EC => curve_name(algorithm.parameters),
        oid => OTHERS.iter().find(|(known, _)| *known == oid).map(|(_, name)| (*name).to_owned()),
    }
}

fn rsa_name(bits: usize) -> Option<String> {
    (!RSA_BITS.contains(&bits)).then(|| format!("an RSA key of {bits} bits"))
}

fn curve_name(parameters: Option<AnyRef<'_>>) -> Option<String> {
    let oid = match parameters?.decode_as::<pkcs8::ObjectIdentifier>() {
        Ok(oid) => oid.to_string(),
        Err(_) => return Some("an EC key with explicit parameters in place of a named curve".to_owned()),
    };
    if CURVES_ACCEPTED.contains(&oid.as_str()) {
        return None;
    }
    let name = CURVES.iter().find(|(known, _)| *known == oid).map_or("another curve than these", |(_, name)| *name);
    Some(format!("an EC key on {name}"))
}

/// Size of the modulus: the first integer of a public key, the second of a private one (RFC 8017, A.1).
fn rsa_bits(der: &[u8], is_private: bool) -> Option<usize> {
    let content = AnyRef::from_der(der).ok()?.value();
    let mut reader = SliceReader::new(content).ok()?;
    if is_private {
        UintRef::decode(&mut reader).ok()?;
    }
    let modulus = UintRef::decode(&mut reader).ok()?;
    let bytes = modulus.as_bytes();
    let unused = bytes.first().map_or(0, |first| first.leading_zeros() as usize);
    Some(bytes.len() * 8 - unused)
}
