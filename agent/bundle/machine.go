package bundle

import (
	"context"
	"errors"
	"net"
	"runtime"

	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
)

// machineFacts are what of the machine bears on an agent and its links.
type machineFacts struct {
	OS        string   `json:"os"`
	Arch      string   `json:"arch"`
	Hostname  string   `json:"hostname,omitempty"`
	Release   string   `json:"release,omitempty"` // for people
	Kernel    string   `json:"kernel,omitempty"`
	Virtual   string   `json:"virtualization,omitempty"`
	UptimeSec uint64   `json:"uptime_s,omitempty"`
	CPUs      int      `json:"cpus"`
	Load1     *float64 `json:"load1,omitempty"`
	MemTotal  uint64   `json:"mem_total,omitempty"` // bytes
	MemFree   uint64   `json:"mem_available,omitempty"`
	// Disk is the file system of the state directory.
	Disk *diskFacts `json:"disk,omitempty"`

	Interfaces []interfaceFacts `json:"interfaces,omitempty"`
	Routes     []routeFacts     `json:"routes,omitempty"` // Linux
	DNS        []string         `json:"dns,omitempty"`    // Linux: name servers of resolv.conf
	// Unknown says what could not be found out.
	Unknown string `json:"unknown,omitempty"`
}

// diskFacts tell of one file system.
type diskFacts struct {
	Type       string `json:"type,omitempty"`
	Total      uint64 `json:"total"` // bytes
	Free       uint64 `json:"free"`
	InodesFree uint64 `json:"inodes_free,omitempty"`
}

// interfaceFacts tell of one network interface.
type interfaceFacts struct {
	Name      string   `json:"name"`
	MTU       int      `json:"mtu"`
	Flags     string   `json:"flags"`
	Addresses []string `json:"addresses,omitempty"`
}

// routeFacts are one route.
type routeFacts struct {
	Interface string `json:"interface"`
	To        string `json:"to"` // prefix
	Via       string `json:"via,omitempty"`
	Metric    uint32 `json:"metric"`
}

// maxInterfaces and maxRoutes bound what a router or a host of containers has.
const (
	maxInterfaces = 200
	maxRoutes     = 500
)

// machine tells of the machine.
func (m *maker) machine(ctx context.Context) {
	p, _, _ := jsonFrom(ctx, m, "machine.json", "the system", sourceWait, func(ctx context.Context) (machineFacts, error) {
		return aboutMachine(ctx, m.o.StateDir), nil
	})
	m.add(p)
}

func aboutMachine(ctx context.Context, dir string) machineFacts {
	f := machineFacts{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU()}
	var errs []error
	if h, err := host.InfoWithContext(ctx); err == nil {
		f.Hostname, f.Kernel, f.UptimeSec = h.Hostname, h.KernelVersion, h.Uptime
		f.Release, f.Virtual = h.Platform+" "+h.PlatformVersion, h.VirtualizationSystem
	} else {
		errs = append(errs, err)
	}
	if l, err := load.AvgWithContext(ctx); err == nil {
		f.Load1 = &l.Load1
	}
	if v, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		f.MemTotal, f.MemFree = v.Total, v.Available
	} else {
		errs = append(errs, err)
	}
	if d, err := disk.UsageWithContext(ctx, dir); err == nil {
		f.Disk = &diskFacts{d.Fstype, d.Total, d.Free, d.InodesFree}
	} else {
		errs = append(errs, err)
	}
	list, err := net.Interfaces()
	errs = append(errs, err)
	for _, i := range list[:min(len(list), maxInterfaces)] {
		one := interfaceFacts{Name: i.Name, MTU: i.MTU, Flags: i.Flags.String()}
		addrs, err := i.Addrs()
		errs = append(errs, err)
		for _, a := range addrs {
			one.Addresses = append(one.Addresses, a.String())
		}
		f.Interfaces = append(f.Interfaces, one)
	}
	routes, err := routes()
	errs = append(errs, err)
	f.Routes, f.DNS = routes[:min(len(routes), maxRoutes)], nameservers()
	if err := errors.Join(errs...); err != nil {
		f.Unknown = err.Error()
	}
	return f
}
