package module

import "strings"

// Glob matches like fnmatch(3) without flags, which is what modprobe(8)
// compares aliases with: "*", "?" and "[...]", and "/" is nothing special.
func Glob(pattern, s string) bool {
	// Where the last "*" was, to return to when what follows it fails.
	star, from := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) {
			switch c := pattern[p]; c {
			case '*':
				star, from = p, i
				p++
				continue
			case '[':
				if n, ok := class(pattern[p:], s[i]); ok {
					p += n
					i++
					continue
				}
			default:
				if c == '?' || c == s[i] {
					p++
					i++
					continue
				}
			}
		}
		if star < 0 {
			return false
		}
		from++
		p, i = star+1, from
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// class matches one character against "[abc]", "[a-z]" or "[!a]" and returns
// the length of the class.
func class(pattern string, c byte) (n int, ok bool) {
	end := strings.IndexByte(pattern, ']')
	if end < 2 {
		return 0, false
	}
	set := pattern[1:end]
	not := set[0] == '!' || set[0] == '^'
	if not {
		set = set[1:]
	}
	in := false
	for k := 0; k < len(set); k++ {
		if k+2 < len(set) && set[k+1] == '-' {
			in = in || set[k] <= c && c <= set[k+2]
			k += 2
			continue
		}
		in = in || set[k] == c
	}
	return end + 1, in != not
}
