variable "name" {
  description = "Name of the instance, such as rack-gateway-staging."
  type        = string
}

variable "vpc_id" {
  description = "The network that it is in."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets in two zones at least."
  type        = list(string)
}

variable "client_security_group_ids" {
  description = "Security groups of the proxy and of admin; nobody else connects."
  type        = list(string)
}

variable "kms_key_arn" {
  description = "The key that its disk and backups are encrypted with."
  type        = string
}

variable "engine_version" {
  description = "Major version of PostgreSQL, 14 or newer."
  type        = string
  default     = "17"
  validation {
    condition     = can(tonumber(var.engine_version)) && tonumber(var.engine_version) >= 14
    error_message = "The gateway needs PostgreSQL 14 or newer."
  }
}

variable "instance_class" {
  description = "Size of the machine."
  type        = string
  default     = "db.t4g.small"
}

variable "storage_gb" {
  description = "Disk at the start; it grows by itself, tenfold at most."
  type        = number
  default     = 20
}

variable "multi_az" {
  description = "Whether a standby in another zone takes over when the machine fails."
  type        = bool
  default     = true
}

variable "backup_days" {
  description = "How long daily backups, and the log between them, are kept."
  type        = number
  default     = 14
  validation {
    condition     = var.backup_days >= 7
    error_message = "Keep seven days at least: what is noticed on a Monday may have happened on a Tuesday."
  }
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
