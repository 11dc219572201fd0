// Package spelling guesses which of the known names a misspelt one was meant to be. It knows
// letters, not what the names are for.
package spelling

// Meant returns the one of names that written was most likely meant to be, "" if none is close: one
// or two letters are wrong, or a name is spelled out, as command for cmd.
func Meant(written string, names []string) string {
	best, distance := "", 3
	for _, name := range names {
		d := editDistance(written, name)
		if len(name) > 5 && len(written) <= len(name)+4 && isWithin(name, written) {
			d = min(d, 2)
		}
		if d < distance && 3*d <= len(name) {
			best, distance = name, d
		}
	}
	return best
}

// isWithin reports whether the letters of short occur in long in this order.
func isWithin(short, long string) bool {
	found := 0
	for i := 0; i < len(long) && found < len(short); i++ {
		if long[i] == short[found] {
			found++
		}
	}
	return found == len(short)
}

// editDistance counts the letters to change, add or take away between a and b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // distances of the part of a so far to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
