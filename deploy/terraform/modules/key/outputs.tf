output "arn" {
  description = "The key's ARN, for AUDIT_ANCHOR_KMS_KEY_ID and the other modules."
  value       = aws_kms_key.this.arn
}
