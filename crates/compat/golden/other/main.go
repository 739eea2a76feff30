// Writes gob streams of other types than vegeta's: extra.gob, whose type has vegeta's fields in another
// order among fields of every kind, and foreign.gob, which has none of them.
package main

import (
	"encoding/gob"
	"os"
	"time"
)

type pair struct {
	Name  string
	Other []pair
}

type result struct {
	Flag      bool
	URL       string
	Nested    pair
	Ratio     float64
	Timestamp time.Time
	Wave      complex128
	Counts    map[string][]int
	Grid      [2][3]uint8
	Code      uint16
	Times     []time.Time
	Any       *pair
	Latency   time.Duration
	Last      string
}

func write(name string, values ...any) {
	file, err := os.Create(name)
	if err != nil {
		panic(err)
	}
	encoder := gob.NewEncoder(file)
	for _, value := range values {
		if err := encoder.Encode(value); err != nil {
			panic(err)
		}
	}
}

func main() {
	at := time.Date(2026, 11, 26, 10, 0, 0, 0, time.FixedZone("", 3600+17))
	tree := pair{"a", []pair{{"b", nil}, {"c", []pair{{"d", nil}}}}}
	full := result{
		true, "http://a/", tree, 1.5, at, 2 + 3i, map[string][]int{"x": {1, -2}},
		[2][3]uint8{{1, 2, 3}, {4, 5, 255}}, 200, []time.Time{at, {}}, &tree, 5, "z",
	}
	write("extra.gob", full, result{Code: 404, Latency: -1}, full)
	write("foreign.gob", struct{ X int }{1})
	write("mistyped.gob", struct{ Code string }{"200"})
	write("number.gob", 5)
}
