//! Format of an order's message: the order's exact text, and the scheduler's signature of it. Without signatures, every
//! principal that may write to a queue could run commands on servers.
//!
//! ```json
//! {"order":"<the order as JSON>","key":"21fe31dfa154a261","signature":"<base64>"}
//! ```
//!
//! The signature is Ed25519 (RFC 8032) over the bytes of the text in `order`, so it does not depend on how JSON is
//! written. `key` is the id of the key. `crate::key_rotation` changes the key.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::order::{Order, PublicKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    order: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// Start of an Ed25519 public key in X.509 (RFC 8410, 4); the 32 bytes of the key follow.
const PUBLIC_KEY_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Signs orders with the installation's private key. Used by scheduler and API.
pub struct Signer {
    key_pair: Ed25519KeyPair,
    id: String,
}

impl Signer {
    /// Reads a private key as `openssl genpkey -algorithm ed25519` writes it (PKCS #8, PEM).
    ///
    /// # Errors
    /// Returns one sentence, without the key.
    pub fn from_pem(text: &str) -> Result<Signer, String> {
        let unreadable = || {
            "the key that signs orders is not a PEM file of an Ed25519 private key; make one with `openssl genpkey \
             -algorithm ed25519`"
                .to_owned()
        };
        let inner: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD.decode(inner).map_err(|_| unreadable())?;
        let key_pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| unreadable())?;
        let id = key_id(key_pair.public_key().as_ref());
        Ok(Signer { key_pair, id })
    }

    /// Makes a new private key, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// Returns one sentence if the system has no random bytes.
    pub fn generate_pem() -> Result<String, String> {
        let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new());
        let der = der.map_err(|_| "cannot make a key: the system has no random bytes".to_owned())?;
        let inner = STANDARD.encode(der.as_ref());
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{inner}\n-----END PRIVATE KEY-----\n"))
    }

    /// Id of the key, in messages and heartbeats.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key as `order_keys` of a policy file takes it: X.509, DER, Base64.
    pub fn public_text(&self) -> String {
        STANDARD.encode([&PUBLIC_KEY_HEAD, self.key_pair.public_key().as_ref()].concat())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Checks signatures of orders against the public keys of a policy file. Used by runners.
#[derive(Debug)]
pub struct Verifier {
    /// Each with its id.
    keys: Vec<(String, PublicKey)>,
}

impl Verifier {
    /// Creates a verifier that accepts orders signed with any of these keys.
    pub fn new(keys: &[PublicKey]) -> Verifier {
        Verifier { keys: keys.iter().map(|key| (key_id(&key.0), *key)).collect() }
    }

    /// The ids of the keys, for heartbeats.
    pub fn key_ids(&self) -> Vec<String> {
        self.keys.iter().map(|(id, _)| id.clone()).collect()
    }

    fn verify(&self, envelope: &Envelope) -> Result<(), VerifyError> {
        let (Some(id), Some(signature)) = (&envelope.key, &envelope.signature) else {
            return Err(VerifyError("not signed, and this runner accepts only signed orders".to_owned()));
        };
        let known = self.keys.iter().find(|(known, _)| known == id);
        let (_, key) = known.ok_or_else(|| {
            let known: Vec<&str> = self.keys.iter().map(|(id, _)| id.as_str()).collect();
            VerifyError(format!(
                "signed with the unknown key {id:?}; this runner accepts {}",
                if known.is_empty() { "no key".to_owned() } else { known.join(", ") }
            ))
        })?;
        let invalid = || VerifyError(format!("the signature of key {id} does not match the text"));
        let signature = STANDARD.decode(signature).map_err(|_| invalid())?;
        UnparsedPublicKey::new(&ED25519, key.0).verify(envelope.order.as_bytes(), &signature).map_err(|_| invalid())
    }
}

/// One sentence why an order is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct VerifyError(pub String);

/// Writes the message of an order; without a signer it is unsigned.
///
/// # Errors
/// Returns an error if the order cannot be written as JSON.
pub(crate) fn sign_order(order: &Order, signer: Option<&Signer>) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(order)?;
    let sign = |signer: &Signer| STANDARD.encode(signer.key_pair.sign(text.as_bytes()));
    let (key, signature) = (signer.map(|signer| signer.id.clone()), signer.map(sign));
    serde_json::to_string(&Envelope { order: text, key, signature })
}

/// Reads the order of a message. Without a verifier, its signature is not checked.
///
/// # Errors
/// Returns the reason why the order is refused: unreadable, expired, unsigned, or signed incorrectly.
pub(crate) fn verify_order(message: &str, verifier: Option<&Verifier>, now: Timestamp) -> Result<Order, VerifyError> {
    let envelope: Envelope =
        serde_json::from_str(message).map_err(|error| VerifyError(format!("not a message with an order: {error}")))?;
    if let Some(verifier) = verifier {
        verifier.verify(&envelope)?;
    }
    let order: Order = serde_json::from_str(&envelope.order)
        .map_err(|error| VerifyError(format!("the order is unreadable: {error}")))?;
    match order.expires_at() {
        expired if expired <= now => {
            Err(VerifyError(format!("the order for run {} expired at {expired}", order.run_id)))
        }
        _ => Ok(order),
    }
}

/// Returns the id of a key: the first 8 bytes of the SHA-256 of its 32 public bytes, as hex.
fn key_id(public: &[u8]) -> String {
    digest(&SHA256, public).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use domain::job::{Command, Job, JobKey};
    use domain::run::{RunId, Trigger};
    use proptest::prelude::*;

    use super::*;

    /// RFC 8032, 7.1, test 1, as OpenSSL writes it.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
                           MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                           -----END PRIVATE KEY-----\n";
    const OTHER_PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
                                 MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banm2zRqx+ELpQO4zXSgWcA4zXCnzXCnz3\n\
                                 -----END PRIVATE KEY-----\n";

    fn order() -> Order {
        let at: Timestamp = "2026-11-23T07:50:00Z".parse().expect("instant");
        let mut job = Job::new(JobKey::new("db", "dump \"all\""), "@daily", Command::Shell("dump > /dev/null".into()));
        job.env.insert("PASSWORD".into(), "ssm:/db/password".into());
        Order {
            version: 1,
            run_id: RunId("20261123T075000Z-3f9a1c0e7b2d".into()),
            attempt: 2,
            nominal: at,
            trigger: Trigger::Schedule,
            issued_at: at,
            not_before: None,
            start_by: None,
            job,
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("instant")
    }

    fn signer(pem: &str) -> Signer {
        Signer::from_pem(pem).expect("key")
    }

    fn public(signer: &Signer) -> PublicKey {
        PublicKey(signer.key_pair.public_key().as_ref().try_into().expect("32 bytes"))
    }

    #[test]
    fn the_format_of_a_message_equals_the_golden_file() {
        let signer = signer(PRIVATE);
        let message = sign_order(&order(), Some(&signer)).expect("message");
        // OpenSSL made the signature, by `openssl pkeyutl -sign -rawin` of the order's text.
        let golden = include_str!("../tests/golden/order_message.json").trim_end();
        assert_eq!(message, golden);
        let verifier = Verifier::new(&[public(&signer)]);
        assert_eq!(verify_order(golden, Some(&verifier), at("2026-11-23T08:00:00Z")), Ok(order()));
    }

    #[test]
    fn during_a_change_of_keys_orders_of_both_keys_are_accepted() {
        let (old, new) = (signer(PRIVATE), signer(OTHER_PRIVATE));
        let check = |verifier: &Verifier, signer: &Signer, expected: Result<(), &str>| {
            let message = sign_order(&order(), Some(signer)).expect("message");
            let opened = verify_order(&message, Some(verifier), order().issued_at).map(drop);
            match (opened, expected) {
                (Err(VerifyError(reason)), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (opened, expected) => assert_eq!(opened.is_ok(), expected.is_ok(), "{opened:?}"),
            }
        };
        let both = Verifier::new(&[public(&old), public(&new)]);
        check(&both, &old, Ok(()));
        check(&both, &new, Ok(()));
        let only_new = Verifier::new(&[public(&new)]);
        check(&only_new, &new, Ok(()));
        check(&only_new, &old, Err("the unknown key \"21fe31dfa154a261\"; this runner accepts "));
    }

    #[test]
    fn a_new_key_is_read_back_and_its_public_text_is_that_of_openssl() {
        let pem = Signer::generate_pem().expect("a key");
        let made = signer(&pem);
        assert_eq!((pem.lines().count(), made.id().len()), (3, 16));
        assert_ne!(Signer::generate_pem().expect("another"), pem);
        // `openssl pkey -pubout` of the key of RFC 8032, 7.1, test 1.
        let known = signer(PRIVATE);
        assert_eq!(known.public_text(), "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(Verifier::new(&[public(&known)]).key_ids(), ["21fe31dfa154a261"]);
    }

    #[test]
    fn unsigned_and_expired_orders_are_refused() {
        let signer = signer(PRIVATE);
        let verifier = Verifier::new(&[public(&signer)]);
        let message = sign_order(&order(), Some(&signer)).expect("message");
        let unsigned = sign_order(&order(), None).expect("message");
        let refused = |message: &str, now: &str| match verify_order(message, Some(&verifier), at(now)) {
            Err(VerifyError(reason)) => reason,
            Ok(order) => format!("accepted: {order:?}"),
        };
        assert!(refused(&unsigned, "2026-11-23T08:00:00Z").contains("not signed"));
        assert!(verify_order(&unsigned, None, order().issued_at).is_ok());
        assert!(verify_order(&message, Some(&verifier), at("2026-11-27T07:49:59Z")).is_ok());
        assert!(refused(&message, "2026-11-27T07:50:00Z").contains("expired at 2026-11-27T07:50:00Z"));
        assert!(refused("{}", "2026-11-23T08:00:00Z").contains("not a message with an order"));
        let none = Verifier::new(&[]);
        assert!(verify_order(&message, Some(&none), order().issued_at).is_err());
        let mut later = order();
        later.not_before = Some(at("2026-12-01T00:00:00Z"));
        assert_eq!(later.expires_at(), at("2026-12-05T00:00:00Z"));
    }

    #[test]
    fn an_invalid_private_key_is_refused_and_never_quoted() {
        for text in ["", "MC4CAQAw", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"] {
            let reason = Signer::from_pem(text).expect_err("refused");
            assert!(reason.contains("openssl genpkey -algorithm ed25519") && !reason.contains("MC4C"), "{reason}");
        }
    }

    /// Any message of a queue is read as an order or refused; with keys, only signed orders are accepted.
    #[test]
    fn any_message_is_an_order_or_refused_and_with_keys_only_signed_orders_are_accepted() {
        let verifier = Verifier::new(&[public(&signer(PRIVATE))]);
        testbed::try_inputs("sealed_orders", |input| {
            let message = String::from_utf8_lossy(input);
            let opened = verify_order(&message, None, order().issued_at);
            assert_ne!(opened, Err(VerifyError(String::new())));
            if let Ok(signed) = verify_order(&message, Some(&verifier), order().issued_at) {
                assert_eq!(signed, order());
            }
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_message_with_any_changed_byte_is_refused(place in any::<prop::sample::Index>(), mask in 1..=255u8) {
            let signer = signer(PRIVATE);
            let mut bytes = sign_order(&order(), Some(&signer)).expect("message").into_bytes();
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
            let Ok(message) = String::from_utf8(bytes) else { return Ok(()) };
            let opened = verify_order(&message, Some(&Verifier::new(&[public(&signer)])), order().issued_at);
            prop_assert!(opened.is_err(), "{message}");
        }
    }
}
