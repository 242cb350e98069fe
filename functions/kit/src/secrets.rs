//! Secrets: JSON documents in SSM Parameter Store (`SecureString`), read when first needed and again every few minutes,
//! so that a rotated secret takes effect without a deployment. They never reach a log, an event or a setting.

use crate::Fault;
use crate::fault::classify;
use crate::service::Service;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a secret is used before it is read again.
const KEPT: Duration = Duration::from_secs(300);

/// One secret document.
pub struct Secret<T> {
    ssm: Service,
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
    pub fn new(ssm: Service, name: String) -> Self {
        Self { ssm, name, kept: Mutex::new(None) }
    }

    /// The document, at most five minutes old.
    pub async fn get(&self) -> Result<T, Fault> {
        if let Some(kept) = self.kept_now() {
            return Ok(kept);
        }
        let wanted = json!({ "Name": self.name, "WithDecryption": true });
        let got = self.ssm.call("GetParameter", &wanted).await;
        let got = got.map_err(|error| classify("reading a secret", error))?;
        let text = got["Parameter"]["Value"].as_str().unwrap_or_default();
        // The error would quote the document.
        let read: T = serde_json::from_str(text)
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
