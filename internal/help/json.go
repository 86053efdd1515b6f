package help

// WantsJSON tells whether a command line asks for --json, before the words of a command
// that it may carry: it is looked for in the words themselves, since the flags may be
// what is wrong with them.
func WantsJSON(args []string) bool {
	for _, a := range args {
		switch a {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}
