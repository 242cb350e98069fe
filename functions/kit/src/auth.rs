//! Authentication: user tokens of the configured issuer, and the queue tokens of our own waiting room.

use crate::{Call, Problem};
use contracts::admission::{QUEUE_TOKEN_ISSUER, QueueTokenClaims};
use contracts::{Invalid, Timestamp, UserId};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// The audience user tokens must be issued for.
pub const AUDIENCE: &str = "encore";
/// The scope of operators, one word of the space-separated claim `scope`.
pub const OPERATOR_SCOPE: &str = "operator";
/// How far the issuer's clock may be off, in seconds.
const LEEWAY_SECONDS: u64 = 5;

/// Verifies user tokens against the issuer's JWKS, which is configuration: no extra hop, no fetch in a cold start.
///
/// Only asymmetric algorithms named by a key of the set are accepted, never `none` or HMAC.
pub struct UserTokens {
    keys: HashMap<String, (Algorithm, DecodingKey)>,
    issuer: String,
}

impl fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserTokens").field("issuer", &self.issuer).field("keys", &self.keys.len()).finish()
    }
}

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub user: UserId,
    operator: bool,
}

#[derive(Deserialize)]
struct UserClaims {
    sub: String,
    #[serde(default)]
    scope: String,
}

impl UserTokens {
    /// From a JWKS document and the issuer's name.
    pub fn new(jwks: &str, issuer: &str) -> Result<Self, Invalid> {
        let wrong = |why| Invalid::new("USER_JWKS", why);
        let set: JwkSet = serde_json::from_str(jwks).map_err(|_| wrong("must be a JWKS document (RFC 7517)"))?;
        let mut keys = HashMap::new();
        for jwk in &set.keys {
            let kid = jwk.common.key_id.clone().ok_or(wrong("every key needs a kid"))?;
            let named = jwk.common.key_algorithm.ok_or(wrong("every key needs an alg"))?;
            let algorithm = Algorithm::from_str(&named.to_string()).map_err(|_| wrong("unknown alg"))?;
            if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
                return Err(wrong("symmetric keys are not accepted"));
            }
            let key = DecodingKey::from_jwk(jwk).map_err(|_| wrong("unusable key"))?;
            keys.insert(kid, (algorithm, key));
        }
        Ok(Self { keys, issuer: issuer.to_owned() })
    }

    /// The caller, or 401 `unauthorized`.
    pub fn user(&self, call: &Call) -> Result<Caller, Problem> {
        let bearer = call
            .header("authorization")
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(Problem::unauthorized)?;
        self.verify(bearer).ok_or_else(Problem::unauthorized)
    }

    /// The caller with the operator scope, or 401 `unauthorized`, or 403 `forbidden`.
    pub fn operator(&self, call: &Call) -> Result<Caller, Problem> {
        let caller = self.user(call)?;
        if caller.operator { Ok(caller) } else { Err(Problem::forbidden()) }
    }

    fn verify(&self, token: &str) -> Option<Caller> {
        let kid = decode_header(token).ok()?.kid?;
        let (algorithm, key) = self.keys.get(&kid)?;
        let mut validation = Validation::new(*algorithm);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<UserClaims>(token, key, &validation).ok()?.claims;
        Some(Caller {
            user: UserId::parse(claims.sub).ok()?,
            operator: claims.scope.split(' ').any(|scope| scope == OPERATOR_SCOPE),
        })
    }
}

/// Signs and verifies queue tokens. Several keys can be valid at once, so that the signing key can be rotated while
/// users wait: add the new key, make it current, and remove the old one a token's life later.
pub struct QueueTokens {
    current: (String, EncodingKey),
    keys: HashMap<String, DecodingKey>,
}

impl fmt::Debug for QueueTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueTokens").field("current", &self.current.0).field("keys", &self.keys.len()).finish()
    }
}

#[derive(Deserialize)]
struct KeySet {
    current: String,
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
struct KeyEntry {
    kid: String,
    secret: String,
}

impl QueueTokens {
    /// From `{"current": "<kid>", "keys": [{"kid": "...", "secret": "<base64url, 32 bytes or more>"}]}`.
    pub fn new(key_set: &str) -> Result<Self, Invalid> {
        use base64::Engine as _;
        let wrong = |why| Invalid::new("QUEUE_TOKEN_KEYS", why);
        let set: KeySet = serde_json::from_str(key_set).map_err(|_| wrong("must be JSON with current and keys"))?;
        let mut keys = HashMap::new();
        let mut current = None;
        for entry in set.keys {
            let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD
                .decode(entry.secret.trim_end_matches('='))
                .map_err(|_| wrong("a secret is not base64url"))?;
            if secret.len() < 32 {
                return Err(wrong("a secret has fewer than 32 bytes"));
            }
            if entry.kid == set.current {
                current = Some(EncodingKey::from_secret(&secret));
            }
            keys.insert(entry.kid, DecodingKey::from_secret(&secret));
        }
        let current = current.ok_or(wrong("current names no key"))?;
        Ok(Self { current: (set.current, current), keys })
    }

    /// A signed token.
    pub fn sign(&self, claims: &QueueTokenClaims) -> Result<String, crate::Fault> {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.current.0.clone());
        encode(&header, claims, &self.current.1).map_err(|error| crate::Fault::broken("signing a queue token", error))
    }

    /// The claims of the call's `Queue-Token`, if it was signed by us for this user; 401 `invalid_queue_token`
    /// otherwise. Whether it is active is decided by the admission plan.
    pub fn of(&self, call: &Call, user: &UserId) -> Result<QueueTokenClaims, Problem> {
        call.header("queue-token")
            .and_then(|token| self.verify(token))
            .filter(|claims| claims.sub == *user)
            .ok_or_else(invalid_queue_token)
    }

    fn verify(&self, token: &str) -> Option<QueueTokenClaims> {
        let key = self.keys.get(&decode_header(token).ok()?.kid?)?;
        let mut validation = Validation::new(Algorithm::HS256);
        // Its times are checked against the plan and the call's clock, not the library's.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[QUEUE_TOKEN_ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        decode::<QueueTokenClaims>(token, key, &validation).ok().map(|data| data.claims)
    }
}

/// 401 `invalid_queue_token`.
pub fn invalid_queue_token() -> Problem {
    Problem { code: "invalid_queue_token", title: "A valid queue token is needed", ..Problem::unauthorized() }
        .detail("the Queue-Token is missing, not ours, or not for this user and concert")
}

/// Whether the token has outlived its `exp`, whatever the plan.
pub fn outlived(claims: &QueueTokenClaims, now: Timestamp) -> bool {
    now.millis() >= claims.exp.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::call;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use contracts::ConcertId;

    fn key_set(current: &str, kids: &[&str]) -> String {
        let keys: Vec<_> = kids
            .iter()
            .map(|kid| serde_json::json!({"kid": kid, "secret": URL_SAFE_NO_PAD.encode([kid.as_bytes()[0]; 32])}))
            .collect();
        serde_json::json!({"current": current, "keys": keys}).to_string()
    }

    fn claims(user: &str) -> QueueTokenClaims {
        QueueTokenClaims {
            iss: QUEUE_TOKEN_ISSUER.into(),
            sub: UserId::parse(user).unwrap(),
            concert_id: ConcertId::parse("c1").unwrap(),
            position: 7,
            turn: None,
            issued_at: Timestamp::from_millis(1),
            active_at: None,
            expires_at: None,
            iat: 0,
            exp: 1,
        }
    }

    fn code(result: Result<QueueTokenClaims, Problem>) -> &'static str {
        result.map_or_else(|problem| problem.code, |_| "ok")
    }

    #[test]
    fn a_queue_token_is_valid_for_its_user_only() {
        let tokens = QueueTokens::new(&key_set("a", &["a"])).unwrap();
        let token = tokens.sign(&claims("alice")).unwrap();
        let call = call(&[("queue-token", &token)]);
        assert_eq!(tokens.of(&call, &UserId::parse("alice").unwrap()).unwrap(), claims("alice"));
        assert_eq!(code(tokens.of(&call, &UserId::parse("bob").unwrap())), "invalid_queue_token");
    }

    #[test]
    fn a_rotated_key_still_verifies_until_it_is_removed() {
        let old = QueueTokens::new(&key_set("a", &["a"])).unwrap().sign(&claims("alice")).unwrap();
        let call = call(&[("queue-token", &old)]);
        let alice = UserId::parse("alice").unwrap();
        assert_eq!(code(QueueTokens::new(&key_set("b", &["a", "b"])).unwrap().of(&call, &alice)), "ok");
        assert_eq!(code(QueueTokens::new(&key_set("b", &["b"])).unwrap().of(&call, &alice)), "invalid_queue_token");
    }

    #[test]
    fn a_forged_or_unsigned_token_is_refused() {
        let tokens = QueueTokens::new(&key_set("a", &["a"])).unwrap();
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims("alice")).unwrap());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"a"}"#);
        let good = tokens.sign(&claims("alice")).unwrap();
        let (head, _) = good.split_once('.').unwrap();
        let (rest, signature) = good.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        for forged in [
            format!("{none}.{body}."),
            format!("{head}.{body}."),
            format!("{rest}.{flipped}{}", &signature[1..]),
            String::new(),
            "a.b.c".into(),
        ] {
            let call = call(&[("queue-token", &forged)]);
            assert_eq!(code(tokens.of(&call, &UserId::parse("alice").unwrap())), "invalid_queue_token", "{forged}");
        }
    }

    #[test]
    fn a_symmetric_or_nameless_key_is_no_issuer_key() {
        let symmetric = r#"{"keys":[{"kty":"oct","kid":"k","alg":"HS256","k":"AAAA"}]}"#;
        assert!(UserTokens::new(symmetric, "i").is_err());
        assert!(UserTokens::new(r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#, "i").is_err());
        assert!(UserTokens::new("nonsense", "i").is_err());
    }
}
