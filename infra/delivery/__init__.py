"""How Encore gets to AWS: `infra/package`, `infra/deploy STAGE`, `infra/destroy STAGE`. See infra/DEPLOY.md."""
