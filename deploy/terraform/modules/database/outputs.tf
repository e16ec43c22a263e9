output "address" {
  description = "Host and port, for DATABASE_URL of each process."
  value       = aws_db_instance.this.endpoint
}

output "owner_secret_arn" {
  description = "Where RDS keeps the first user's password; use it once, to make the three logins."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "cidrs" {
  description = "The subnets that it is in, for the chart's network policies."
  value       = [for subnet in data.aws_subnet.this : subnet.cidr_block]
}

data "aws_subnet" "this" {
  for_each = toset(var.subnet_ids)
  id       = each.value
}
