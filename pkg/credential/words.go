package credential

import (
	"io"
	"strings"
)

// words are short, told apart by ear and eye, and offend nobody. There are 128 of them.
const words = `amber anchor apple arrow autumn bamboo banjo barrel basil beacon bicycle birch bottle bridge bronze butter
cactus camel candle canyon carbon carpet castle cedar chalk cherry cinema circus clover cobalt comet copper
coral cotton cradle crystal dolphin domino donkey dragon eagle ember engine falcon feather fiddle flame forest
fossil garden garlic ginger glacier goblet granite guitar hammer harbor hazel helmet honey hotel indigo island
ivory jacket jasmine jigsaw jungle kettle kitten ladder lagoon lantern lemon lilac lizard magnet mango maple
marble meadow melon mirror mosaic nectar needle nickel nutmeg oasis olive onion orchid otter paddle panda
paper parrot pebble pencil pepper piano pillow planet pocket pumpkin puzzle quartz rabbit radio raven ribbon
river rocket saddle salmon sandal satin shadow silver socket spider spring sunset tiger timber tulip velvet`

// NewWords draws two words that tie a terminal and a page together. The source must be one of cryptographic randomness
// that never fails.
func NewWords(random io.Reader) string {
	list := strings.Fields(words)
	var b [2]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		panic(err)
	}
	return list[int(b[0])%128] + " " + list[int(b[1])%128]
}
