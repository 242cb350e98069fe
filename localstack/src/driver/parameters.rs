//! The parameters that a local system is deployed with.

use crate::error::Error;
use crate::tokens::{self, Tokens};
use crate::{ISSUER, Options, Result, files};
use std::collections::{BTreeMap, BTreeSet};

/// The templates' parameters for external systems, and where the sink plays those.
const OUTSIDE: [(&str, &str); 6] = [
    ("DataPlatformUrl", "{sink}/data-platform"),
    ("PartnerUrl", "{sink}/partner"),
    ("AlimTalkUrl", "{sink}/alimtalk"),
    ("CashReceiptUrl", "{sink}/toss"),
    ("NotionUrl", "{sink}/notion"),
    ("UserDirectoryUrl", "{sink}/directory"),
];

/// Whether templates with these parameters name an external system.
pub fn name_the_outside(declared: &BTreeSet<String>) -> bool {
    OUTSIDE.iter().any(|(name, _)| declared.contains(*name))
}

/// The local cloud's parameters, then the remembered ones, then those given now; of these, the declared ones.
///
/// `{sink}` in a value stands for the sink's URL, which is known only now.
pub fn all(options: &Options, declared: &BTreeSet<String>, sink_url: &str) -> Result<BTreeMap<String, String>> {
    let path = options.dir.join("parameters.json");
    let remembered: BTreeMap<String, String> = files::read_json(&path)?.unwrap_or_default();
    let chosen = merge(remembered.clone(), &options.parameters);
    check(&options.parameters, declared)?;
    if chosen != remembered {
        files::write_json(&path, &chosen)?;
    }
    let tokens = Tokens::open(&options.dir)?;
    let mut all = BTreeMap::from([
        ("UserJwks".to_owned(), tokens.jwks().to_string()),
        ("UserTokenIssuer".to_owned(), ISSUER.to_owned()),
        ("QueueTokenKeys".to_owned(), tokens::queue_token_keys(&options.dir)?),
        ("Stage".to_owned(), "local".to_owned()),
        // Charging is free here, unless a payment provider is configured: `PaymentProviderUrl={sink}/toss`.
        ("OpenCharges".to_owned(), "true".to_owned()),
    ]);
    all.extend(OUTSIDE.map(|(name, url)| (name.to_owned(), url.to_owned())));
    all.extend(chosen);
    for value in all.values_mut() {
        *value = value.replace("{sink}", sink_url);
    }
    all.retain(|key, _| declared.contains(key));
    Ok(all)
}

/// Refuses a parameter that no template has.
pub fn check(asked: &BTreeMap<String, String>, declared: &BTreeSet<String>) -> Result<()> {
    let Some(unknown) = asked.keys().find(|key| !declared.contains(*key)) else { return Ok(()) };
    let known: Vec<&str> = declared.iter().map(String::as_str).collect();
    Err(Error::Usage(format!("no template has a parameter {unknown}; there are {}", known.join(", "))))
}

/// Given parameters override remembered ones; an empty value forgets.
fn merge(mut remembered: BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    remembered.extend(asked.clone());
    remembered.retain(|_, value| !value.is_empty());
    remembered
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_are_remembered_until_set_otherwise() {
        let remembered = map(&[("TokenExpiry", "strict"), ("AdmissionDefault", "closed")]);
        assert_eq!(merge(remembered.clone(), &map(&[])), remembered);
        assert_eq!(
            merge(remembered, &map(&[("TokenExpiry", "event"), ("AdmissionDefault", "")])),
            map(&[("TokenExpiry", "event")])
        );
    }

    #[test]
    fn only_declared_parameters_are_passed_and_unknown_ones_refused() {
        let options = Options::ephemeral("test-parameters").parameter("TokenExpiry", "strict");
        fs::create_dir_all(&options.dir).unwrap();
        let declared = BTreeSet::from(["TokenExpiry".to_owned(), "Stage".to_owned()]);
        let passed = all(&options, &declared, "http://sink").unwrap();
        assert_eq!(passed, map(&[("Stage", "local"), ("TokenExpiry", "strict")]));
        let error = all(&options.clone().parameter("Tpyo", "1"), &declared, "http://sink").unwrap_err().to_string();
        assert!(error.contains("Tpyo") && error.contains("TokenExpiry"), "{error}");
        files::remove(&options.dir).unwrap();
    }
}
