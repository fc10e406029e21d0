package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// part is one of those that share the machine: a service, the broker, the database, the load generator. It is the
// processes with these IDs and all that descend from them; a process belongs to the nearest of its ancestors that is a
// root of some part.
type part struct {
	name  string
	roots []int
}

// use is what a part has used of the machine.
type use struct {
	cpu  time.Duration // user and system, since its processes began
	rss  int64         // resident now, bytes; pages that processes share count for each
	peak int64         // resident at most since resetPeak, bytes, summed over the processes
}

// tick is the unit of times in /proc/PID/stat. Linux fixes it to 10 ms for programs, whatever the kernel's own is.
const tick = 10 * time.Millisecond

// process is a line of /proc.
type process struct {
	parent int
	cpu    time.Duration // its own, and that of its children that have ended and were waited for
}

// measure reads the processes of all parts, at one go, from a file system such as /proc. A process that ended meanwhile
// is in the time of its parent; one that nobody waited for is lost.
func measure(proc fs.FS, parts []part) (map[string]use, error) {
	all, err := processes(proc)
	if err != nil {
		return nil, err
	}
	uses := map[string]use{}
	for _, p := range parts {
		uses[p.name] = use{} // also when it does not run
	}
	for pid, name := range owners(all, parts) {
		u := uses[name]
		rss, peak := memory(proc, pid)
		uses[name] = use{cpu: u.cpu + all[pid].cpu, rss: u.rss + rss, peak: u.peak + peak}
	}
	return uses, nil
}

// processes are all that run.
func processes(proc fs.FS) (map[int]process, error) {
	entries, err := fs.ReadDir(proc, ".")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := fs.ReadFile(proc, path.Join(e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		if all[pid], err = parseStat(stat); err != nil {
			return nil, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return all, nil
}

// parseStat reads proc_pid_stat(5): ppid is field 4, utime, stime, cutime and cstime are 14 to 17. The name, field 2, is
// in brackets and may hold anything.
func parseStat(stat []byte) (process, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 15 {
		return process{}, fmt.Errorf("%q has too few fields", stat)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return process{}, err
	}
	p := process{parent: parent}
	for _, field := range fields[11:15] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return process{}, err
		}
		p.cpu += time.Duration(ticks) * tick
	}
	return p, nil
}

// owners tells which part each process belongs to. Those that belong to none are left out.
func owners(all map[int]process, parts []part) map[int]string {
	roots := map[int]string{}
	for _, p := range parts {
		for _, pid := range p.roots {
			roots[pid] = p.name
		}
	}
	owners := map[int]string{}
	for pid := range all {
		for at := pid; at != 0; at = all[at].parent {
			if name, is := roots[at]; is {
				owners[pid] = name
				break
			}
		}
	}
	return owners
}

// busy is how long all processors together have not been idle since the machine was started: the first line of
// proc_stat(5), without idle and iowait, and without guest times, which are in others.
func busy(proc fs.FS) (time.Duration, error) {
	stat, err := fs.ReadFile(proc, "stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat: %q", line)
	}
	var sum time.Duration
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, irq, softirq, steal
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// memory reads how much of a process is in memory, now and at most.
func memory(proc fs.FS, pid int) (rss, peak int64) {
	status, err := fs.ReadFile(proc, path.Join(strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, 0
	}
	for lines := bufio.NewScanner(bytes.NewReader(status)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			rss = kb << 10
		case "VmHWM":
			peak = kb << 10
		}
	}
	return rss, peak
}

// resetPeak lets the peaks of all parts begin anew. Where that is not allowed they are those of the processes' whole lives.
func resetPeak(parts []part) {
	all, err := processes(os.DirFS("/proc"))
	if err != nil {
		return
	}
	for pid := range owners(all, parts) {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
	}
}
