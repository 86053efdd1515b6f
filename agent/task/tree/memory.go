package tree

import (
	"fmt"

	"github.com/shirou/gopsutil/v4/process"
)

// Memory is how many bytes of memory the process pid holds (its resident set).
func Memory(pid int) (uint64, error) {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	m, err := p.MemoryInfo()
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return m.RSS, nil
}
