package directory

import "context"

// TryToWrite puts a statement where only questions belong.
func (r *Reader) TryToWrite(ctx context.Context, statement string) error {
	return r.view(ctx, func(tx *readTx) error {
		var rows []string
		return tx.sel(ctx, &rows, statement)
	})
}

// PatternCovers is patternCovers.
func PatternCovers(wide, narrow string) bool { return patternCovers(wide, narrow) }
