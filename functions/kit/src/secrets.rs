//! Secrets: JSON documents in SSM Parameter Store (`SecureString`), read when first needed and again every few
//! minutes, so that a rotated secret is in force without a deployment. They never reach a log, an event or a setting.

use crate::{Fault, dynamo};
use aws_sdk_ssm::Client;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a secret is used before it is read again.
const KEPT: Duration = Duration::from_secs(300);

/// One secret document.
pub struct Secret<T> {
    client: Client,
    name: String,
    kept: Mutex<Option<(Instant, T)>>,
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned + Clone> Secret<T> {
    /// The secret in a parameter.
    pub fn new(client: Client, name: String) -> Self {
        Self { client, name, kept: Mutex::new(None) }
    }

    /// What it says now.
    pub async fn get(&self) -> Result<T, Fault> {
        if let Some(kept) = self.kept_now() {
            return Ok(kept);
        }
        let got = self.client.get_parameter().name(&self.name).with_decryption(true).send().await;
        let got = got.map_err(|error| dynamo::classify("reading a secret", error))?;
        let text = got.parameter.and_then(|parameter| parameter.value).unwrap_or_default();
        // The error would quote the document.
        let read: T = serde_json::from_str(&text)
            .map_err(|_| Fault::unavailable("reading a secret", format!("{} is not as it must be", self.name)))?;
        if let Ok(mut kept) = self.kept.lock() {
            *kept = Some((Instant::now(), read.clone()));
        }
        Ok(read)
    }

    fn kept_now(&self) -> Option<T> {
        let kept = self.kept.lock().ok()?;
        kept.as_ref().filter(|(since, _)| since.elapsed() < KEPT).map(|(_, secret)| secret.clone())
    }
}
