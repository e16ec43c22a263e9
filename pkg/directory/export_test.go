package directory

import (
	"context"

	"github.com/google/uuid"
)

// TryToWrite puts a statement where only questions belong.
func (r *Reader) TryToWrite(ctx context.Context, statement string) error {
	return r.view(ctx, func(tx *readTx) error {
		var rows []string
		return tx.sel(ctx, &rows, statement)
	})
}

// PatternCovers is patternCovers.
func PatternCovers(wide, narrow string) bool { return patternCovers(wide, narrow) }

// CheckEmail is checkEmail.
func CheckEmail(address string) (string, error) { return checkEmail(address) }

// OpenCursor is openCursor.
func OpenCursor(cursor string) (string, uuid.UUID, error) { return openCursor(cursor) }

// SealCursor is sealCursor.
func SealCursor(key string, id uuid.UUID) string { return sealCursor(key, id) }

// The statements whose cost must not grow with the tables.
const (
	ListTokensStatement         = listTokens
	ListTokensByPrefixStatement = listTokensByPrefix
	ByBitmapStatement           = byBitmap
	FindTokenWordsStatement     = findTokenWords
	FindTokensByNameStatement   = findTokensByName
	ListUsersStatement          = listUsers
	ListSessionsStatement       = listSessions
)

// WordQuery is wordQuery, and LikeBeginning likeBeginning.
func WordQuery(text string) string { return wordQuery(text) }

func LikeBeginning(text string) string { return likeBeginning(text) }
