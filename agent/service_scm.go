package agent

// What Windows' services console shows, by `install` and by a package alike.
const (
	ServiceTitle       = "GuruRMM Agent"
	ServiceDescription = "GuruRMM endpoint agent: runs what the operator orders, and repairs its own link"
)
