//! The bucket that a deployment goes through: packages, and templates, which may be longer than a call takes.

use crate::driver::artifacts::Package;
use crate::error::{AtPath, Error};
use crate::http::Client;
use crate::{REGION, Result};
use ::http::Method;
use std::fs;

/// The bucket of a system.
#[derive(Clone, Debug)]
pub struct Bucket {
    http: Client,
    endpoint: String,
    name: String,
}

impl Bucket {
    /// Of the system of that name in the engine at that endpoint.
    pub fn new(endpoint: &str, system: &str) -> Self {
        Self { http: Client::new(), endpoint: endpoint.to_owned(), name: Self::name(system) }
    }

    /// What it is called.
    pub fn name(system: &str) -> String {
        format!("{}-packages", system.to_lowercase())
    }

    /// Makes it, and uploads what is not there yet.
    pub async fn upload(&self, packages: &[Package]) -> Result<()> {
        self.call(Method::PUT, "", Vec::new(), &[200, 409]).await?;
        for package in packages {
            let key = package.key();
            if self.call(Method::HEAD, &key, Vec::new(), &[200, 404]).await? == 404 {
                self.put(&key, fs::read(&package.path).at("reading", &package.path)?).await?;
            }
        }
        Ok(())
    }

    /// Stores something; returns its URL.
    pub async fn put(&self, key: &str, content: Vec<u8>) -> Result<String> {
        self.call(Method::PUT, key, content, &[200]).await?;
        Ok(self.url(key))
    }

    fn url(&self, key: &str) -> String {
        format!("{}/{}/{key}", self.endpoint, self.name)
    }

    /// One call. Returns which of the expected statuses came.
    async fn call(&self, method: Method, key: &str, body: Vec<u8>, expected: &[u16]) -> Result<u16> {
        let url = self.url(key);
        let answer = self.http.send(method, &url, &[("authorization", &authorization("s3"))], body).await?;
        let status = answer.status.as_u16();
        if expected.contains(&status) {
            return Ok(status);
        }
        Err(Error::Deploy(format!("{url}: {status} {}", answer.text())))
    }
}

/// Not a signature, which a local engine does not check, but the place from which it takes the region and the account.
pub fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )
}
