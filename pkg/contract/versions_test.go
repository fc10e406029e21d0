package contract_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repository is a git repository with a proto/ folder and the script that says whose readers must not break.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) repository {
	t.Helper()
	r := repository{t, t.TempDir()}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repository) run(env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(r.t.Context(), name, args...)
	cmd.Dir = r.dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.t.TempDir(), "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org"}, env...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	out, err := r.run(nil, "git", args...)
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return out
}

// commit writes text into a file and returns the commit that has it.
func (r repository) commit(file, text string) string {
	r.t.Helper()
	file = filepath.Join(r.dir, file)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", text)
	return r.git("rev-parse", "HEAD")
}

func (r repository) clone(args ...string) repository {
	r.t.Helper()
	c := repository{r.t, filepath.Join(r.t.TempDir(), "a clone")}
	r.git(slices.Concat([]string{"clone", "-q"}, args, []string{"file://" + r.dir, c.dir})...)
	return c
}

func (r repository) versions(env ...string) (string, error) {
	script, err := filepath.Abs("versions.sh")
	if err != nil {
		r.t.Fatal(err)
	}
	return r.run(env, script)
}

func TestAChangeIsComparedWithAllThatMainHadOfLate(t *testing.T) {
	main := newRepository(t)
	first := main.commit("proto/pay.proto", "a and b")
	breaking := main.commit("proto/pay.proto", "a alone")
	innocent := main.commit("proto/pay.proto", "a and c")
	tip := main.commit("README.md", "nothing about proto")
	all := strings.Join([]string{innocent, breaking, first}, "\n")

	branch := main.clone()
	branch.git("checkout", "-q", "-b", "work")
	branch.commit("proto/pay.proto", "a and d")

	detached := main.clone()
	detached.git("checkout", "-q", "--detach", tip)
	detached.git("branch", "-q", "-D", "main")
	detached.git("update-ref", "-d", "refs/remotes/origin/main")

	elsewhere := main.clone("--depth=1")
	elsewhere.git("remote", "set-url", "origin", filepath.Join(t.TempDir(), "gone"))

	for given, c := range map[string]struct {
		in   repository
		env  string
		want string
		ok   bool
	}{
		"main itself, a break under an innocent change": {main, "", all, true},
		"a branch that changes proto":                   {branch, "", all, true},
		"a checkout that knows no main":                 {detached, "", all, true},
		"a shallow checkout":                            {main.clone("--depth=1"), "", all, true},
		"a shallow checkout of nowhere":                 {elsewhere, "", "set CONTRACT_BASE", false},
		"a commit that is named":                        {main, "CONTRACT_BASE=HEAD~3", first, true},
		"a commit that is not there":                    {main, "CONTRACT_BASE=v9", "is no commit", false},
		"no commit yet":                                 {newRepository(t), "", "", true},
		"no repository":                                 {repository{t, t.TempDir()}, "", "", true},
	} {
		got, err := c.in.versions(c.env)
		if c.ok && (err != nil || got != c.want) || !c.ok && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %v\n%s\nwant\n%s", given, err, got, c.want)
		}
	}
}
