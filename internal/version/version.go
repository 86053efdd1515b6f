// Package version holds the program's version, set by the linker.
package version

// Version is what the build was made of: a tag, or a commit.
var Version = "dev"
