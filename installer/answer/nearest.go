package answer

// nearest returns the candidate with the smallest edit distance to s, "" when
// even that one differs in more than a third of its letters.
func nearest(candidates []string, s string) string {
	if len(s) > 128 {
		return ""
	}
	best, distance := "", len(s)/3+1
	for _, c := range candidates {
		if d := editDistance(c, s); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's, with two rows of memory.
func editDistance(a, b string) int {
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(prev[j]+cost, prev[j+1]+1, cur[j]+1)
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
