//! HTTP calls made by hand, as a handler gets them, and the tokens they carry.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use contracts::Timestamp;
use contracts::admission::QueueTokenClaims;
use http::{HeaderMap, HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use kit::Call;
use kit::auth::{AUDIENCE, OPERATOR_SCOPE, QueueTokens, UserTokens};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The `iss` of user tokens.
pub const ISSUER: &str = "https://issuer.test";
const KID: &str = "test";

struct Issuer {
    key: EncodingKey,
    jwks: String,
}

/// One key pair for the whole process, never written anywhere.
static ISSUED: LazyLock<Issuer> = LazyLock::new(|| {
    let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).expect("the same key");
    let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": KID, "x": public});
    Issuer { key: EncodingKey::from_ed_der(private.as_ref()), jwks: json!({ "keys": [jwk] }).to_string() }
});

/// The issuer's keys as a JWKS document: the setting `USER_JWKS`.
pub fn jwks() -> &'static str {
    &ISSUED.jwks
}

/// The verifier that every handler is wired with.
pub fn users() -> UserTokens {
    UserTokens::new(jwks(), ISSUER).expect("our own keys")
}

/// A user token with any claims over the usual ones; `null` removes a claim.
pub fn user_token_with(user: &str, claims: Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(KID.to_owned());
    // Verified against the wall clock, whatever the call's own time is.
    let exp = kit::now().millis() / 1000 + 3600;
    let mut all = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": user, "exp": exp});
    for (name, value) in claims.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    all.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
    encode(&header, &all, &ISSUED.key).expect("a signature")
}

/// A buyer's token.
pub fn user_token(user: &str) -> String {
    user_token_with(user, json!({}))
}

/// An operator's token.
pub fn operator_token(user: &str) -> String {
    user_token_with(user, json!({ "scope": OPERATOR_SCOPE }))
}

/// The signer and verifier of queue tokens that handlers are wired with.
pub fn queue_tokens() -> QueueTokens {
    let secret = URL_SAFE_NO_PAD.encode([7; 32]);
    let set = json!({"current": "test", "keys": [{"kid": "test", "secret": secret}]});
    QueueTokens::new(&set.to_string()).expect("our own keys")
}

/// A call being put together.
#[derive(Debug, Clone)]
pub struct Ask {
    call: Call,
}

impl Ask {
    /// A call at a moment, without a user and without input.
    pub fn at(now: Timestamp) -> Self {
        Self {
            call: Call {
                headers: HeaderMap::new(),
                path: HashMap::new(),
                query: HashMap::new(),
                body: Vec::new(),
                request_id: "request-1".to_owned(),
                now,
            },
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header's value");
        self.call.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// By a user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.header("authorization", &format!("Bearer {}", user_token(user)))
    }

    /// By an operator.
    #[must_use]
    pub fn operator(self, user: &str) -> Self {
        self.header("authorization", &format!("Bearer {}", operator_token(user)))
    }

    /// With a place in line.
    #[must_use]
    pub fn place(self, claims: &QueueTokenClaims) -> Self {
        self.header("queue-token", &queue_tokens().sign(claims).expect("a queue token"))
    }

    /// Under an idempotency key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// With a part of the path.
    #[must_use]
    pub fn path(mut self, name: &str, value: &str) -> Self {
        self.call.path.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a part of the query.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.call.query.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With a body.
    #[must_use]
    pub fn json(mut self, body: Value) -> Self {
        self.call.body = body.to_string().into_bytes();
        self
    }

    /// The call.
    pub fn call(self) -> Call {
        self.call
    }
}
