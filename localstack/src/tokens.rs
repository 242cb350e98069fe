//! The local issuer of user tokens, and the keys that the stack is deployed with.
//!
//! On AWS both come from elsewhere (an identity provider, a secret). Here they are made on first need and kept in the
//! stack's directory, so that a token outlives a restart.

use crate::Result;
use crate::error::{AtPath, Error};
use crate::files;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The `iss` of user tokens, and the template parameter `UserTokenIssuer`.
pub const ISSUER: &str = "https://issuer.encore.local";

/// Issues user tokens (JWT, Ed25519).
pub struct Tokens {
    key: EncodingKey,
    header: Header,
    jwks: Value,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("jwks", &self.jwks).finish_non_exhaustive()
    }
}

/// The subject of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// The user id, `sub`.
    pub user: &'a str,
    /// With the scope `operator`.
    pub operator: bool,
    /// How long it lives from now, in seconds. Negative: it has expired already.
    pub ttl_seconds: i64,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    kid: String,
    /// PKCS #8, base64url.
    private: String,
    /// The raw public key, base64url.
    public: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
}

impl Tokens {
    /// The issuer of the stack in `dir`. Makes its key if there is none yet.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = keys(dir).join("user-tokens.json");
        if !path.exists() {
            files::write_secret_once(&path, to_json(&new_user_key()?, &path)?.as_bytes())?;
        }
        let file: KeyFile = read(&path)?;
        let private = URL_SAFE_NO_PAD.decode(&file.private).map_err(|e| damaged(&path, &e))?;
        // Checked here, where the file can be named.
        Ed25519KeyPair::from_pkcs8(&private).map_err(|e| damaged(&path, &e))?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(file.kid.clone());
        let jwks = json!({"keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": file.kid, "x": file.public,
        }]});
        Ok(Self { key: EncodingKey::from_ed_der(&private), header, jwks })
    }

    /// The public keys, a JSON Web Key Set.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    /// A token as asked for.
    pub fn issue(&self, request: TokenRequest<'_>) -> Result<String> {
        let now = epoch_seconds();
        let claims = Claims {
            iss: ISSUER,
            sub: request.user,
            aud: "encore",
            // A token that has expired was issued before that.
            iat: now.min(now.saturating_add(request.ttl_seconds)),
            exp: now.saturating_add(request.ttl_seconds),
            scope: request.operator.then_some("operator"),
        };
        encode(&self.header, &claims, &self.key).map_err(|e| Error::Damaged(format!("signing a token: {e}")))
    }

    /// A buyer's token, good for an hour.
    pub fn user(&self, user: &str) -> Result<String> {
        self.issue(TokenRequest { user, operator: false, ttl_seconds: 3_600 })
    }

    /// An operator's token, good for an hour.
    pub fn operator(&self, user: &str) -> Result<String> {
        self.issue(TokenRequest { user, operator: true, ttl_seconds: 3_600 })
    }
}

/// The template parameter `QueueTokenKeys` of the stack in `dir`: the waiting room's signing keys. Made if there are
/// none yet.
pub fn queue_token_keys(dir: &Path) -> Result<String> {
    let path = keys(dir).join("queue-tokens.json");
    if !path.exists() {
        let kid = format!("q-{}", random_text(6)?);
        let set = json!({"current": kid, "keys": [{"kid": kid, "secret": random_text(32)?}]});
        files::write_secret_once(&path, set.to_string().as_bytes())?;
    }
    let set: Value = read(&path)?;
    Ok(set.to_string())
}

pub(crate) fn keys(dir: &Path) -> PathBuf {
    dir.join("keys")
}

fn new_user_key() -> Result<KeyFile> {
    let broken = |e: &dyn fmt::Display| Error::Engine(format!("making a key: {e}"));
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|e| broken(&e))?;
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).map_err(|e| broken(&e))?;
    let public = pair.public_key().as_ref();
    Ok(KeyFile {
        kid: format!("u-{}", files::short_hash(&[public], 12)),
        private: URL_SAFE_NO_PAD.encode(private.as_ref()),
        public: URL_SAFE_NO_PAD.encode(public),
    })
}

/// So many random bytes, base64url.
pub(crate) fn random_text(bytes: usize) -> Result<String> {
    let mut raw = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut raw).map_err(|e| Error::Engine(format!("no random numbers: {e}")))?;
    Ok(URL_SAFE_NO_PAD.encode(raw))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).at("reading", path)?;
    serde_json::from_slice(&text).map_err(|e| damaged(path, &e))
}

fn to_json(value: &impl Serialize, path: &Path) -> Result<String> {
    serde_json::to_string(value).map_err(|e| damaged(path, &e))
}

fn damaged(path: &Path, why: &dyn fmt::Display) -> Error {
    Error::Damaged(format!("{} is damaged ({why}); remove it and start again", path.display()))
}

/// Seconds since 1970, the unit of a token's times (RFC 7519).
fn epoch_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
    use std::process;

    fn scratch(name: &str) -> PathBuf {
        files::CargoTarget::of_this_program().dir.join(format!("test-{name}-{}", process::id()))
    }

    fn verify(tokens: &Tokens, token: &str) -> Result<Value, jsonwebtoken::errors::Error> {
        let set: JwkSet = serde_json::from_value(tokens.jwks().clone()).unwrap();
        let kid = decode_header(token).unwrap().kid.unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["encore"]);
        validation.set_issuer(&[ISSUER]);
        let key = DecodingKey::from_jwk(set.find(&kid).unwrap())?;
        decode::<Value>(token, &key, &validation).map(|data| data.claims)
    }

    #[test]
    fn a_token_verifies_against_the_published_keys_after_a_restart() {
        let dir = scratch("tokens");
        let token = Tokens::open(&dir).unwrap().operator("alice").unwrap();
        let claims = verify(&Tokens::open(&dir).unwrap(), &token).unwrap();
        assert_eq!((claims["sub"].as_str(), claims["scope"].as_str()), (Some("alice"), Some("operator")));
        files::remove(&dir).unwrap();
    }

    #[test]
    fn a_negative_ttl_gives_an_expired_token() {
        let dir = scratch("expired");
        let tokens = Tokens::open(&dir).unwrap();
        let token = tokens.issue(TokenRequest { user: "bob", operator: false, ttl_seconds: -3_600 }).unwrap();
        assert!(verify(&tokens, &token).is_err());
        assert!(verify(&tokens, &tokens.user("bob").unwrap()).is_ok());
        files::remove(&dir).unwrap();
    }

    #[test]
    fn queue_token_keys_are_what_the_waiting_room_reads() {
        let dir = scratch("queue");
        let keys = queue_token_keys(&dir).unwrap();
        assert_eq!(keys, queue_token_keys(&dir).unwrap());
        assert!(kit::auth::QueueTokens::new(&keys).is_ok());
        files::remove(&dir).unwrap();
    }
}
