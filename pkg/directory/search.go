package directory

import (
	"strings"
	"unicode/utf8"
)

// Searching goes by the beginnings of words, which every PostgreSQL can index, and not by parts of them.

// tokenMark begins every token.
const tokenMark = "rgw_"

// cleanSearch is what somebody searches for, without what no text in the database has.
func cleanSearch(search string) string {
	return strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(search, "\x00", ""), ""))
}

// separators stand between words, as the function rgw.words has them.
const separators = " \t\r\n!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// longestWord bounds a word that is searched for, in bytes. A longer one finds what begins with it that far.
const longestWord = 200

// wordQuery is the tsquery, as text, for whatever has words that begin with each of those in the text; "" when there is
// no word in it, so that nothing has.
func wordQuery(text string) string {
	var query strings.Builder
	for word := range strings.FieldsFuncSeq(text, func(c rune) bool { return strings.ContainsRune(separators, c) }) {
		if len(word) > longestWord {
			end := longestWord
			for !utf8.RuneStart(word[end]) {
				end--
			}
			word = word[:end]
		}
		if query.Len() > 0 {
			query.WriteString(" & ")
		}
		// Neither a quote nor a backslash is part of a word. The word itself says nothing that its beginning does not,
		// but how common it is PostgreSQL knows, and of beginnings it guesses: by it, it chooses the way.
		query.WriteString("('" + word + "' | '" + word + "':*)")
	}
	return query.String()
}

// likeBeginning is the pattern of what begins with the text.
func likeBeginning(text string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(text) + "%"
}
