package strictyaml

import "strings"

// Suggest returns the candidate that word is most likely a misspelling of, or
// "" if none is near. Letter case and the choice between "-" and "_" count
// for little, a swap of two neighbours counts once.
func Suggest(word string, candidates []string) string {
	const longest = 64 // the longest name that anybody mistypes
	if word == "" || len(word) > longest {
		return ""
	}
	folded := fold(word)
	limit := max(1, min(3, len(word)/3))
	best, found := limit+1, ""
	for _, c := range candidates {
		if c == word || c == "" || len(c) > longest || abs(len(c)-len(word)) >= best {
			continue
		}
		if d := distance(folded, fold(c), best); d < best && d < len(c) {
			best, found = d, c
		}
		if best == 0 {
			break
		}
	}
	return found
}

// DidYouMean returns the hint `did you mean "x"?` for the nearest candidate,
// or "" if none is near.
func DidYouMean(word string, candidates []string) string {
	if s := Suggest(word, candidates); s != "" {
		return `did you mean "` + s + `"?`
	}
	return ""
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance returns the optimal string alignment distance of a and b: the
// insertions, deletions, replacements and swaps of neighbours between them.
// It may stop early with any number that is at least stop.
func distance(a, b string, stop int) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
			least = min(least, cur[j])
		}
		if least > stop {
			return least
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}

func abs(n int) int { return max(n, -n) }
