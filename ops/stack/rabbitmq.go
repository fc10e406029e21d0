package stack

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const broker = "hotchoc" // the name of the administrator

// startRabbit brings up a private node.
func (s *Stack) startRabbit(ctx context.Context) (version string, err error) {
	script, err := rabbitScript(s.cfg.RabbitHome)
	if err != nil {
		return "", err
	}
	home := s.path("rabbitmq")
	as, err := lookup("rabbitmq")
	if err != nil || as != nil && !as.reaches(home) {
		as = nil // unlike Postgres it runs as root too
	}
	if err := s.startEpmd(ctx, as); err != nil {
		return "", err
	}
	if p := s.process("rabbitmq"); p.alive() {
		return "runs already", s.awaitRabbit(ctx, p)
	}
	env, err := s.writeRabbitConfig(home)
	if err != nil {
		return "", err
	}
	if err := as.own(home); err != nil {
		return "", err
	}
	p, err := s.launch(command{name: "rabbitmq", path: script, env: env, as: as})
	if err != nil {
		return "", err
	}
	return rabbitVersion(script), s.awaitRabbit(ctx, p)
}

// startEpmd brings up the daemon by which Erlang nodes find each other, for this node alone. Left to
// itself the node would start one for the whole machine, which outlives it.
func (s *Stack) startEpmd(ctx context.Context, as *account) error {
	if s.process("epmd").alive() {
		return nil
	}
	p, err := s.launch(command{name: "epmd", path: "epmd", as: as, env: []string{"PATH=" + os.Getenv("PATH")},
		args: []string{"-port", strconv.Itoa(s.port("epmd")), "-address", "127.0.0.1"}})
	if err != nil {
		return err
	}
	return s.await(ctx, "epmd", p, func(ctx context.Context) error { return dial(ctx, s.port("epmd")) })
}

// writeRabbitConfig writes the node's files and returns the environment that points to them.
func (s *Stack) writeRabbitConfig(home string) (env []string, err error) {
	etc := filepath.Join(home, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		return nil, err
	}
	// Imported at every start, so the administrator's password is always the one asked for; and since
	// it is there at the first start, the user guest is never made.
	definitions, err := json.Marshal(map[string]any{
		"vhosts":      []map[string]any{{"name": "/"}},
		"users":       []map[string]any{{"name": broker, "password": s.known().Rabbit, "tags": "administrator"}},
		"permissions": []map[string]any{{"user": broker, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}},
	})
	if err != nil {
		return nil, err
	}
	ports := s.known().Ports
	for name, text := range map[string]string{
		"definitions.json":  string(definitions),
		"enabled_plugins":   "[rabbitmq_management,rabbitmq_prometheus].\n",
		"advanced.config":   "[{kernel, [{inet_dist_use_interface, {127,0,0,1}}]}].\n",
		"rabbitmq-env.conf": "", // an empty one of our own, or the machine's would be read
		"rabbitmq.conf": strings.Join([]string{
			fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d", ports["amqp"]),
			"management.tcp.ip = 127.0.0.1",
			fmt.Sprintf("management.tcp.port = %d", ports["management"]),
			"prometheus.tcp.ip = 127.0.0.1",
			fmt.Sprintf("prometheus.tcp.port = %d", ports["prometheus"]),
			"load_definitions = " + filepath.Join(etc, "definitions.json"),
			"cluster_name = hotchoc", // a fixed one: 4.x looks the machine's name up for every connection
			"log.console.level = warning",
			// Both alarms block publishers, which looks like a hang. Absolute, since a share of a small
			// or of a huge machine is never what is meant.
			"vm_memory_high_watermark.absolute = 1GB",
			"disk_free_limit.absolute = 256MB",
			"raft.wal_max_size_bytes = 64000000", // the default keeps 512 MB in memory and on disk
			"",
		}, "\n"),
	} {
		if err := os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home, // the cookie lives there
		"LANG=C.UTF-8", // for a path that is not ASCII
		"RABBITMQ_NODENAME=hotchoc@localhost",
		"RABBITMQ_CONF_ENV_FILE=" + filepath.Join(etc, "rabbitmq-env.conf"),
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(etc, "rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + filepath.Join(etc, "advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(etc, "enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(withoutBlanks(home), "data"),
		"RABBITMQ_LOG_BASE=" + filepath.Join(home, "log"),
		"RABBITMQ_LOGS=-", // to the output, which is our log
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", ports["distribution"]),
		fmt.Sprintf("ERL_EPMD_PORT=%d", ports["epmd"]),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_CRASH_DUMP_SECONDS=0",   // no dump: it is as large as the node's memory
		"RUNNING_UNDER_SYSTEMD=true", // the script becomes the node: one process, one pid
	}, nil
}

// withoutBlanks is a way to the node's folder that has no blanks in it: the node hands its path to df
// without quotes, and could not see how full the disk is. It is a link; detour says where.
func withoutBlanks(home string) string {
	link := detour(home)
	if link == "" {
		return home
	}
	os.Symlink(home, link)
	info, err := os.Lstat(link)
	target, _ := os.Readlink(link)
	if err != nil || target != home || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return home // somebody else was there first: rather no view of the disk than his folder
	}
	return link
}

func detour(home string) string {
	if !strings.ContainsFunc(home, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`\'"$&;()*?<>|`+"`", r) }) {
		return ""
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("hotchoc-%x", sha256.Sum256([]byte(home)))[:24])
}

func (s *Stack) awaitRabbit(ctx context.Context, p process) error {
	return s.await(ctx, "rabbitmq", p, func(ctx context.Context) error {
		if err := dial(ctx, s.port("amqp")); err != nil { // the last thing that opens
			return err
		}
		return pingRabbit(ctx, s.Management())
	})
}

// pingRabbit asks the management API who we are: the cheapest question that needs the right password.
func pingRabbit(ctx context.Context, management string) error {
	return get(ctx, strings.TrimSuffix(management, "/")+"/api/whoami") // the login is in the URL
}

func dial(ctx context.Context, port int) error {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address(port))
	if err != nil {
		return err
	}
	return conn.Close()
}

// AMQP is the address of the broker, as its administrator.
func (s *Stack) AMQP() string {
	if s.known().Elsewhere.AMQP != "" {
		return s.known().Elsewhere.AMQP
	}
	u := url.URL{Scheme: "amqp", User: url.UserPassword(broker, s.known().Rabbit), Host: address(s.port("amqp")), Path: "/"}
	return u.String()
}

// Management is the address of the broker's management API and pages, login included.
func (s *Stack) Management() string {
	if s.known().Elsewhere.Management != "" {
		return s.known().Elsewhere.Management
	}
	u := url.URL{Scheme: "http", User: url.UserPassword(broker, s.known().Rabbit), Host: address(s.port("management"))}
	return u.String()
}

// managementOf guesses where the management API of a broker elsewhere is.
func managementOf(amqp string) (string, error) {
	first, _, _ := strings.Cut(amqp, ",")
	u, err := url.Parse(first)
	if err != nil { // the error would quote the password
		return "", errors.New("AMQP_URL must look like amqp://user:password@host:port/")
	}
	return (&url.URL{Scheme: "http", User: u.User, Host: net.JoinHostPort(u.Hostname(), "15672")}).String(), nil
}

// serviceBroker is the same broker, or the same list of brokers, as one service sees it.
func (s *Stack) serviceBroker(service, password string) (string, error) {
	brokers := strings.Split(s.AMQP(), ",")
	for i, one := range brokers {
		u, err := url.Parse(one)
		if err != nil {
			return "", errors.New("AMQP_URL must look like amqp://user:password@host:port/")
		}
		u.User = url.UserPassword(service, password)
		brokers[i] = u.String()
	}
	return strings.Join(brokers, ","), nil
}

// rabbitVersion is in the name of the folder that the script really lies in.
func rabbitVersion(script string) string {
	real, err := filepath.EvalSymlinks(script)
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(filepath.Base(filepath.Dir(filepath.Dir(real))), "-")
	return version
}

// rabbitScript finds the server's own start script. Debian's wrapper on the PATH changes the user and
// the folder, and refuses everybody but root and rabbitmq.
func rabbitScript(home string) (string, error) {
	candidates := []string{"/usr/lib/rabbitmq/bin/rabbitmq-server"}
	if home != "" { // an unpacked release
		candidates = append([]string{filepath.Join(home, "sbin", "rabbitmq-server")}, candidates...)
	}
	if path, err := exec.LookPath("rabbitmq-server"); err == nil && path != "/usr/sbin/rabbitmq-server" {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errMissing
}
