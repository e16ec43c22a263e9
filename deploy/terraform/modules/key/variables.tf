variable "name" {
  description = "What the gateway is called, such as staging."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,30}$", var.name))
    error_message = "Use lower-case letters, digits and dashes, 31 characters at most."
  }
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = {}
}
