package proxy

// RecordsClear reports whether an option is recorded as it is.
func RecordsClear(field string) bool { return clearFields[field] }
