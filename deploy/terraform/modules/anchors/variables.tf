variable "name" {
  description = "What the gateway is called, such as rack-gateway-staging; roles are named after it."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket (AUDIT_ANCHOR_BUCKET)."
  type        = string
}

variable "chain" {
  description = "The folder in the bucket that this gateway's ledger is in (AUDIT_ANCHOR_CHAIN_ID)."
  type        = string
}

variable "retention_days" {
  description = "How long nothing can be deleted (AUDIT_ANCHOR_RETENTION_DAYS). It can be lengthened later, and never shortened."
  type        = number
  default     = 400
  validation {
    condition     = var.retention_days >= 1 && var.retention_days <= 36500
    error_message = "Between 1 and 36500 days."
  }
}

variable "kms_key_arn" {
  description = "The key that objects are encrypted with (AUDIT_ANCHOR_KMS_KEY_ID): the output arn of the module key."
  type        = string
}

variable "writer_trust_policy" {
  description = "JSON policy of who may be the writer: admin's service account by IRSA, or its instance role."
  type        = string
}

variable "verifier_trust_policy" {
  description = "JSON policy of who may be the verifier, best in another account; none is made when it is empty."
  type        = string
  default     = ""
}

variable "administrator_arns" {
  description = "Who may change the bucket's own settings: the role that runs this, and nobody else."
  type        = list(string)
  validation {
    condition     = length(var.administrator_arns) > 0
    error_message = "Name the role that runs Terraform, or it locks itself out."
  }
}

variable "replica_kms_key_arn" {
  description = "The key of the copy in the other region; no copy is made when it is empty."
  type        = string
  default     = ""
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
