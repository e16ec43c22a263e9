package proxy

// RecordsClear reports whether an option is recorded as it is.
func RecordsClear(field string) bool { return clearFields[field] }

// TellCounts records what was only counted so far, as Run does from time to time.
func (p *Proxy) TellCounts() { p.tellCounts() }
