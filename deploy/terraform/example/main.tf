# What surrounds one gateway, put together. Copy it, fill in variables.tf's names, and keep the state where the rest of
# yours is.

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.60, < 7.0" }
  }
}

provider "aws" {
  region = var.region
}

provider "aws" {
  alias  = "replica"
  region = var.replica_region
}

module "key" {
  source = "../modules/key"
  name   = var.name
}

module "replica_key" {
  source    = "../modules/key"
  name      = "${var.name}-replica"
  providers = { aws = aws.replica }
}

module "anchors" {
  source              = "../modules/anchors"
  name                = "rack-gateway-${var.name}"
  bucket              = var.anchors_bucket
  chain               = var.name
  retention_days      = 400
  kms_key_arn         = module.key.arn
  replica_kms_key_arn = module.replica_key.arn
  writer_trust_policy = data.aws_iam_policy_document.admin.json
  administrator_arns  = var.administrator_arns
  providers           = { aws = aws, aws.replica = aws.replica }
}

module "database" {
  source                    = "../modules/database"
  name                      = "rack-gateway-${var.name}"
  vpc_id                    = var.vpc_id
  subnet_ids                = var.private_subnet_ids
  client_security_group_ids = var.gateway_security_group_ids
  kms_key_arn               = module.key.arn
}

# Admin's service account in the cluster is the anchors' writer, by the cluster's own identity provider (IRSA).
data "aws_iam_policy_document" "admin" {
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_provider}:sub"
      values   = ["system:serviceaccount:${var.namespace}:${var.release}-admin"]
    }
    condition {
      test     = "StringEquals"
      variable = "${var.oidc_provider}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

output "admin_environment" {
  value = module.anchors.environment
}

output "admin_role_arn" {
  value = module.anchors.writer_role_arn
}

output "database_address" {
  value = module.database.address
}

output "database_cidrs" {
  value = module.database.cidrs
}
