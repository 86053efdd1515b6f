package operator

// shortID is the least of an id that is shown beside a name, in characters.
const shortID = 8

// Distinct gives each of several endpoints a name of its own: its name, and where another
// one of them has the same the beginning of its id, as much as tells them apart. Both
// have the same length.
func Distinct(names, ids []string) []string {
	same := map[string][]string{} // ids by name
	for i, n := range names {
		same[n] = append(same[n], ids[i])
	}
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = n
		if len(same[n]) > 1 {
			out[i] += " (" + beginning(ids[i], same[n]) + ")"
		}
	}
	return out
}

// beginning is the least of id that no other one of all begins with.
func beginning(id string, all []string) string {
	most := min(shortID, len(id))
	for _, other := range all {
		if other == id {
			continue
		}
		n := 0
		for n < len(id) && n < len(other) && id[n] == other[n] {
			n++
		}
		most = max(most, min(n+1, len(id)))
	}
	return id[:most]
}
