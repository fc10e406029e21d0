package stack

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
)

// standard are the ports people expect. A private epmd starts one above the port that every Erlang
// node of the machine shares: that one is never ours to stop.
var standard = map[string]int{
	"amqp":         5672,
	"management":   15672,
	"prometheus":   15692,
	"distribution": 25672,
	"epmd":         4370,
	"postgres":     5432,
	"menu":         8080,
	"order":        8081,
	"pay":          8082,
	"make":         8083,
	"delivery":     8084,
	"partners":     8090,
}

// choosePorts gives every name its standard port, or the next free one that is nobody else's standard.
func choosePorts() (map[string]int, error) {
	taken := map[int]bool{}
	for _, port := range standard {
		taken[port] = true
	}
	ports := map[string]int{}
	names := slices.SortedFunc(maps.Keys(standard), func(a, b string) int { return standard[a] - standard[b] })
	for _, name := range names {
		port := standard[name]
		for ; (port != standard[name] && taken[port]) || !free(port); port++ {
			if port >= standard[name]+200 {
				return nil, fmt.Errorf("no free port for %s between %d and %d on 127.0.0.1", name, standard[name], port)
			}
		}
		taken[port] = true
		ports[name] = port
	}
	return ports, nil
}

// anyPorts takes what the kernel gives: test stacks run beside each other and are found by URL, not by habit.
func anyPorts() (map[string]int, error) {
	ports := map[string]int{}
	for name := range standard {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are chosen, so that no two are the same
		ports[name] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func free(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
