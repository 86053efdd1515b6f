package local

// runDir is where the guardian of the default state directory answers.
const runDir = "/run/gururmm-agent"
