//go:build unix && !linux

package guardian

// runDir is where the guardian of the default state directory answers.
const runDir = "/var/run/gururmm-agent"
