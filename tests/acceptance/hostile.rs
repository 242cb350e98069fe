//! Bad input and bad tokens: a clear problem, and nothing written.

use crate::on_cloud;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use programs::root;
use serde_json::{Value, json};
use tests::cloud::{Terms, code};

/// A route that takes user tokens.
struct Guarded {
    method: String,
    path: String,
    /// Whether it takes those of operators only.
    of_operators: bool,
}

/// Every such route of the API description, with an id for each parameter in its path.
fn guarded() -> Vec<Guarded> {
    let text = std::fs::read_to_string(root().join("infra/openapi.yaml")).unwrap();
    let api: Value = serde_norway::from_str(&text).unwrap();
    let mut routes = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let Some(scopes) = operation["security"][0].get("userToken") else { continue };
            let filled = path.split('/').map(|part| if part.starts_with('{') { "none" } else { part });
            routes.push(Guarded {
                method: method.to_uppercase(),
                path: filled.collect::<Vec<_>>().join("/"),
                of_operators: scopes[0] == "operator",
            });
        }
    }
    routes
}

#[test]
fn no_route_takes_a_missing_expired_forged_or_unsigned_user_token() {
    on_cloud(async |cloud| {
        let good = cloud.token("victim", 60);
        let (head, rest) = good.split_once('.').unwrap();
        let (claims, signature) = rest.split_once('.').unwrap();
        let header = |alg: &str| {
            let kid: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
            URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT", "kid": kid["kid"]}).to_string())
        };
        let other_claims = URL_SAFE_NO_PAD.encode(
            json!({"iss": "https://issuer.encore.local", "sub": "victim", "aud": "encore", "exp": 4_000_000_000_u64,
                "scope": "operator"})
            .to_string(),
        );
        let bad = [
            String::new(),
            "nonsense".to_owned(),
            cloud.token("victim", -60),
            format!("{}.{claims}.", header("none")),
            format!("{}.{claims}.{signature}", header("HS256")),
            format!("{head}.{other_claims}.{signature}"),
        ];
        let routes = guarded();
        assert!(routes.len() > 20, "only {} routes take user tokens", routes.len());
        for Guarded { method, path, .. } in &routes {
            let answer = cloud.nobody().send(method, path, &[], None).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (401, "unauthorized"), "{method} {path}");
            for token in &bad {
                let answer = cloud.bearer(token).send(method, path, &[("idempotency-key", "k")], None).await;
                assert_eq!(answer.status, 401, "{method} {path} {token}");
            }
        }
    });
}

#[test]
fn no_route_of_operators_takes_another_users_token() {
    on_cloud(async |cloud| {
        let routes = guarded();
        assert!(routes.iter().filter(|route| route.of_operators).count() > 5);
        for Guarded { method, path, .. } in routes.iter().filter(|route| route.of_operators) {
            let answer = cloud.user("fan").send(method, path, &[("idempotency-key", "k")], None).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (403, "forbidden"), "{method} {path}");
        }
    });
}

#[test]
fn an_unknown_route_or_method_is_not_found_with_or_without_a_token() {
    on_cloud(async |cloud| {
        for (method, path) in [("GET", "/nowhere"), ("GET", "/"), ("GET", "/points/of/all"), ("DELETE", "/points")] {
            for user in [cloud.nobody(), cloud.bearer("nonsense"), cloud.user("fan")] {
                let answer = user.send(method, path, &[], None).await;
                assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (404, "not_found"), "{method} {path}");
                assert!(answer.headers.contains_key("x-request-id"), "{method} {path}");
            }
        }
    });
}

#[test]
fn no_forged_queue_token_opens_the_door() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let good = fan.join(&sale).await;
        let (rest, signature) = good.rsplit_once('.').unwrap();
        let (_, claims) = rest.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let user_token = cloud.token(&fan.id, 60);
        for forged in ["", "x", &format!("{none}.{claims}."), &format!("{rest}.{}", signature.repeat(2)), &user_token] {
            let answer = fan.reserve(&sale, forged, &["A-1-1"]).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (401, "invalid_queue_token"), "{forged}");
        }
        assert_eq!(fan.get("/reservations").await.json()["items"], json!([]));
    });
}

#[test]
fn bodies_that_are_not_what_they_should_be_are_refused() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        let token = fan.join(&sale).await;
        let schedule = &sale.schedule;
        let many: Vec<String> = (1..=91).map(|number| format!("A-1-{number}")).collect();
        let bad = [
            String::new(),
            "{".to_owned(),
            "[]".to_owned(),
            "null".to_owned(),
            "\u{0}".to_owned(),
            json!({"schedule_id": schedule}).to_string(),
            json!({"schedule_id": schedule, "seats": []}).to_string(),
            json!({"schedule_id": schedule, "seats": "A-1-1"}).to_string(),
            json!({"schedule_id": schedule, "seats": [1]}).to_string(),
            json!({"schedule_id": schedule, "seats": ["A-1-1", "A-1-1"]}).to_string(),
            json!({"schedule_id": schedule, "seats": ["A-01-1"]}).to_string(),
            json!({"schedule_id": schedule, "seats": many}).to_string(),
            json!({"schedule_id": schedule, "seats": ["A-1-1"], "user_id": "victim"}).to_string(),
            json!({"schedule_id": schedule, "seats": ["A-1-1"], "price": 1}).to_string(),
            json!({"schedule_id": "x".repeat(10_000), "seats": ["A-1-1"]}).to_string(),
            json!({"schedule_id": 7, "seats": ["A-1-1"]}).to_string(),
            json!([schedule, ["A-1-1"]]).to_string(),
        ];
        for body in bad {
            let answer = fan.raw("POST", "/reservations", &[("queue-token", &token)], body.clone()).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{body:.100}");
        }
        let large = json!({"schedule_id": "x".repeat(70_000), "seats": ["A-1-1"]}).to_string();
        let answer = fan.raw("POST", "/reservations", &[("queue-token", &token)], large).await;
        assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (413, "payload_too_large"));
        assert_eq!(fan.get("/reservations").await.json()["items"], json!([]));
        assert_eq!(sale.available(&fan).await, 50);
    });
}

#[test]
fn keys_cursors_and_limits_that_are_none_are_refused() {
    on_cloud(async |cloud| {
        let fan = cloud.user("fan");
        for key in ["a b", "", "x#y", &"k".repeat(65)] {
            let answer =
                fan.send("POST", "/points/charges", &[("idempotency-key", key)], Some(&json!({"amount": 1}))).await;
            assert_eq!(answer.status, 400, "{key:?}");
        }
        for query in ["limit=0", "limit=101", "limit=x", "cursor=***"] {
            for path in ["/reservations", "/points/history", "/concerts"] {
                let answer = fan.get(&format!("{path}?{query}")).await;
                assert_eq!(
                    (answer.status.as_u16(), code(&answer).as_str()),
                    (400, "invalid_request"),
                    "{path} {query}"
                );
            }
        }
        assert_eq!(fan.balance().await, 0);
    });
}
