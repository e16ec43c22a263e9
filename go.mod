module rackgateway

go 1.26
