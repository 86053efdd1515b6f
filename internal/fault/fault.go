// Package fault is the seam where tests break exactly one thing in a real
// process. In a normal build it does nothing at all; with the build tag
// "faults" a file named like a label in the directory $GURURMM_FAULTS switches
// that fault on, and its removal off again.
package fault

// Once in the file of a fault that stalls makes it strike one goroutine only,
// which then never comes back; for all others the fault is off again.
const Once = "once"
