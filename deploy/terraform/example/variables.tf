variable "name" {
  description = "What the gateway is called, such as staging."
  type        = string
}

variable "region" {
  type    = string
  default = "eu-central-1"
}

variable "replica_region" {
  type    = string
  default = "eu-west-1"
}

variable "anchors_bucket" {
  description = "Names of buckets are worldwide; put your organisation's in it."
  type        = string
}

variable "administrator_arns" {
  description = "The role that runs this."
  type        = list(string)
}

variable "vpc_id" {
  type = string
}

variable "private_subnet_ids" {
  type = list(string)
}

variable "gateway_security_group_ids" {
  description = "Of the cluster's nodes or pods that run proxy and admin."
  type        = list(string)
}

variable "oidc_provider_arn" {
  description = "The cluster's identity provider."
  type        = string
}

variable "oidc_provider" {
  description = "The same, without https://."
  type        = string
}

variable "namespace" {
  type    = string
  default = "rack-gateway"
}

variable "release" {
  description = "Name of the Helm release."
  type        = string
  default     = "rack-gateway"
}
