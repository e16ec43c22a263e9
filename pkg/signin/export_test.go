package signin

// ReturnPath is returnPath.
func ReturnPath(asked string) string { return returnPath(asked) }
