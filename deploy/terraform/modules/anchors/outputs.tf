output "environment" {
  description = "What admin's environment needs for the anchors."
  value = {
    AUDIT_ANCHOR_BUCKET         = aws_s3_bucket.anchors.bucket
    AUDIT_ANCHOR_CHAIN_ID       = var.chain
    AUDIT_ANCHOR_MODE           = "COMPLIANCE"
    AUDIT_ANCHOR_RETENTION_DAYS = tostring(var.retention_days)
    AUDIT_ANCHOR_KMS_KEY_ID     = var.kms_key_arn
  }
}

output "writer_role_arn" {
  description = "For the annotation eks.amazonaws.com/role-arn of admin's service account."
  value       = aws_iam_role.writer.arn
}

output "verifier_role_arn" {
  description = "For an auditor; empty when there is none."
  value       = try(aws_iam_role.verifier[0].arn, "")
}
