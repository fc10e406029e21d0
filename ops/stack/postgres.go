package stack

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "github.com/lib/pq"
)

const superuser = "hotchoc"

// postgresSettings differ from the defaults for a reason each. fsync and synchronous_commit are not
// among them: what the shop promises is only true with both on.
var postgresSettings = []string{
	"listen_addresses=127.0.0.1",
	"unix_socket_directories=", // a socket's path is limited to 107 bytes; a checkout's is not
	"max_connections=200",      // five services with a pool each, twice over
	"shared_buffers=128MB",
	"wal_level=logical",             // for the relay that tails the log
	"max_slot_wal_keep_size=4096MB", // a forgotten slot must not fill the disk
	"password_encryption=scram-sha-256",
}

// startPostgres brings up a private cluster; data of an earlier start are used again.
func (s *Stack) startPostgres(ctx context.Context) (version string, err error) {
	if p := s.process("postgres"); p.alive() {
		_, err := s.awaitPostgres(ctx, p)
		return "runs already", err
	}
	data := s.path("postgres")
	bin, err := postgresBin(data)
	if err != nil {
		return "", err
	}
	as, err := lookup("postgres") // Postgres refuses to run as root
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		if err := s.initCluster(ctx, bin, data, as); err != nil {
			return "", err
		}
	}
	if err := awaitOrphans(ctx, data); err != nil {
		return "", err
	}
	cmd := command{name: "postgres", path: filepath.Join(bin, "postgres"), as: as, env: postgresEnv()}
	if data, err = cmd.handOver(data); err != nil {
		return "", err
	}
	defer cmd.dir.Close()
	cmd.args = []string{"-D", data, "-p", strconv.Itoa(s.port("postgres"))}
	for _, setting := range postgresSettings {
		cmd.args = append(cmd.args, "-c", setting)
	}
	p, err := s.launch(cmd)
	if err != nil {
		return "", err
	}
	return s.awaitPostgres(ctx, p)
}

// orphansMax is how long the children of a killed Postgres may take to notice, which they do at once, and to end.
const orphansMax = 15 * time.Second

// awaitOrphans waits until nothing is left of an earlier Postgres that was killed: its children hold its shared memory and
// work in the data directory, and as long as it is a zombie itself its lock file counts. A new one would not start.
func awaitOrphans(ctx context.Context, data string) error {
	data, err := filepath.EvalSymlinks(data)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orphansMax)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		pid, ok := orphan(data)
		if !ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("an earlier Postgres has left process %s behind, which still holds %s: end it, then start again", pid, data)
		}
	}
}

// orphan finds a process of an earlier Postgres.
func orphan(data string) (pid string, ok bool) {
	folders, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range folders {
		if at, err := os.Readlink(cwd); err == nil && at == data {
			return filepath.Base(filepath.Dir(cwd)), true
		}
	}
	lock, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	pid, _, _ = strings.Cut(string(lock), "\n")
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	return pid, pid != "" && err == nil && bytes.Contains(stat, []byte(") Z "))
}

// initCluster makes the cluster in a folder beside and renames it, so that a half-made one is never used.
func (s *Stack) initCluster(ctx context.Context, bin, data string, as *account) error {
	password, err := s.secret("postgres")
	if err != nil {
		return err
	}
	fresh := data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return err
	}
	if err := as.own(fresh); err != nil {
		return err
	}
	initdb := command{path: filepath.Join(bin, "initdb"), as: as, env: postgresEnv()}
	dir, err := initdb.handOver(fresh)
	if err != nil {
		return err
	}
	defer initdb.dir.Close()
	initdb.args = []string{"-D", dir, "-U", superuser, "-A", "scram-sha-256", "--pwfile=/dev/stdin", "-E", "UTF8", "--locale=C"}
	cmd := initdb.exec()
	secret := fresh + ".password" // a file, since initdb opens its input by name, and must own it
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	defer os.Remove(secret)
	if err := as.own(secret); err != nil {
		return err
	}
	stdin, err := os.Open(secret)
	if err != nil {
		return err
	}
	defer stdin.Close()
	cmd.Stdin = stdin
	if out, err := output(ctx, cmd); err != nil {
		return fmt.Errorf("initdb: %w\n    %s", err, strings.ReplaceAll(strings.TrimSpace(out), "\n", "\n    "))
	}
	return os.Rename(fresh, data)
}

func postgresEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
}

func (s *Stack) awaitPostgres(ctx context.Context, p process) (version string, err error) {
	err = s.await(ctx, "postgres", p, func(ctx context.Context) error {
		version, err = pingPostgres(ctx, s.Database())
		return err
	})
	return version, err
}

func reachPostgres(ctx context.Context, url string) error {
	_, err := pingPostgres(ctx, url)
	return err
}

// pingPostgres logs in and asks for the version, without what the packager added to it.
func pingPostgres(ctx context.Context, url string) (version string, err error) {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return "", err
	}
	defer db.Close()
	if err := db.QueryRowContext(ctx, "SHOW server_version").Scan(&version); err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, " ")
	return version, nil
}

// output runs a command to its end; when the context ends first it is killed, with all it started.
func output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out.String(), err
}

// Database is the address of Postgres, as its superuser.
func (s *Stack) Database() string {
	if s.known().Elsewhere.Database != "" {
		return s.known().Elsewhere.Database
	}
	password, _ := s.secret("postgres")
	return fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable", superuser, password, address(s.port("postgres")))
}

// serviceDatabase is the same server as one service sees it: its own role and database.
func (s *Stack) serviceDatabase(service, password string) (string, error) {
	u, err := url.Parse(s.Database())
	if err != nil {
		return "", errors.New("DATABASE_URL must look like postgres://user:password@host:port/")
	}
	u.User = url.UserPassword(service, password)
	u.Path = "/" + service
	return u.String(), nil
}

// postgresBin finds the programs of the newest Postgres, or of the one that made the data.
func postgresBin(data string) (string, error) {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // Debian and its kin
	slices.SortFunc(candidates, func(a, b string) int { return majorOf(b) - majorOf(a) })
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(out)))
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		candidates = append(candidates, filepath.Dir(path))
	}
	want, _ := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	major := strings.TrimSpace(string(want))
	for _, bin := range candidates {
		out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
			continue
		}
		if major == "" || strings.HasPrefix(string(out), "postgres (PostgreSQL) "+major+".") {
			return bin, nil
		}
	}
	if major != "" {
		return "", fmt.Errorf("the data in %s were made by Postgres %s, which is not installed: install postgresql-%s, or give the data up with down --volumes", data, major, major)
	}
	return "", errMissing
}

func majorOf(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return n
}
