package rabbit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"hotchoc/pkg/flow"
)

// How an object of the broker can differ from what the flows ask for.
const (
	Missing = "missing" // declared, but not there
	Extra   = "extra"   // there, but not declared
	Changed = "changed" // there, but not as declared
)

// Difference is one object of the broker that is not what the flows ask for.
type Difference struct {
	// Kind is exchange, queue, binding, user, permission, topic permission, policy or parameter.
	Kind string `json:"kind"`
	// Name is that of the object: pay.dead, or order.events -order.placed-> pay.
	Name string `json:"name"`
	// Is is Missing, Extra or Changed.
	Is string `json:"is"`
	// Changes are what is not as declared of an object that is Changed.
	Changes []Change `json:"changes,omitempty"`
	// Why tells what happens with it as it is.
	Why string `json:"why"`
	// Fix is the command that puts it right. Those that delete ask for the administrator's password.
	Fix string `json:"fix"`
}

// Change is one property that is not as declared; null is none.
type Change struct {
	What     string `json:"what"`
	Declared any    `json:"declared"`
	Observed any    `json:"observed"`
}

// String is the change in a few words.
func (c Change) String() string {
	return fmt.Sprintf("%s is %s, not %s", c.What, text(c.Observed), text(c.Declared))
}

func text(v any) string {
	if v == nil {
		return "not set"
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

const applyCommand = "hotchoc topology apply"

// kind is one of the lists of a definitions document.
type kind struct {
	kind, list string
	name       func(object) string
	compared   []string // properties; one that is a table is compared entry by entry
	path       func(object) []string
	// once: the broker keeps what such an object was made with, whatever is declared later.
	once                    bool
	missing, extra, changed string // what happens then
}

// kinds are in the order in which they are told.
var kinds = []kind{
	{kind: "exchange", list: "exchanges", name: field("name"), compared: []string{"type", "durable", "auto_delete", "internal", "arguments"}, once: true,
		path:    func(o object) []string { return []string{"exchanges", str(o, "vhost"), str(o, "name")} },
		missing: "its service cannot publish, and nobody hears it", extra: "no flow knows it", changed: "messages take other ways than the flows say"},
	{kind: "queue", list: "queues", name: field("name"), compared: []string{"durable", "auto_delete", "arguments"}, once: true,
		path:    func(o object) []string { return []string{"queues", str(o, "vhost"), str(o, "name")} },
		missing: "its messages are lost, or wait with their sender", extra: "nobody reads it, and what is in it stays; with it that is deleted, too: look first", changed: "messages can be lost, or come back at other times than the flows say; what is in it is deleted with it: stop the services, and let it run empty first"},
	{kind: "binding", list: "bindings", name: bindingName, path: bindingPath,
		missing: "these messages do not arrive; history alone may have them", extra: "messages arrive that nobody there hears, and become dead letters"},
	{kind: "user", list: "users", name: field("name"), compared: []string{"tags", "password"},
		missing: "its service cannot log in", changed: "its service cannot log in, or may do more than it needs"},
	{kind: "permission", list: "permissions", name: field("user"), compared: []string{"configure", "write", "read"},
		path:    func(o object) []string { return []string{"permissions", str(o, "vhost"), str(o, "user")} },
		missing: "its service is refused", extra: "somebody gets at the events of the services", changed: "its service is refused, or may do more than it needs"},
	{kind: "topic permission", list: "topic_permissions", name: field("user", "exchange"), compared: []string{"write", "read"},
		path: func(o object) []string {
			return []string{"topic-permissions", str(o, "vhost"), str(o, "user"), str(o, "exchange")}
		},
		missing: "its service can publish events that are not its own", extra: "it bounds what somebody may publish", changed: "its service is refused, or can publish events that are not its own"},
	{kind: "policy", list: "policies", name: field("name"),
		path:  func(o object) []string { return []string{"policies", str(o, "vhost"), str(o, "name")} },
		extra: "it changes queues or exchanges behind what they were made with"},
	{kind: "parameter", list: "parameters", name: field("component", "name"),
		path: func(o object) []string {
			return []string{"parameters", str(o, "component"), str(o, "vhost"), str(o, "name")}
		},
		extra: "it can bound queues, or move their messages away"},
}

// Diff compares the topology that flows ask for with that of a broker, as its administrator sees it through the management
// API, and returns what differs in the virtual host; nothing if nothing does. It changes nothing. Rights of users that
// are administrators are not told. An error means that the broker could not be looked at.
func Diff(ctx context.Context, managementURL, vhost string, flows []*flow.Flow, passwords map[string]string) ([]Difference, error) {
	declared, err := declare(vhost, flows, passwords)
	if err != nil {
		return nil, err
	}
	observed, err := observe(ctx, managementURL, vhost)
	if err != nil {
		return nil, fmt.Errorf("look at the topology: %w", err)
	}
	var admins []string
	for _, u := range observed["users"] {
		if slices.Contains(tags(u), "administrator") {
			admins = append(admins, str(u, "name"))
		}
	}
	var differences []Difference
	for _, k := range kinds {
		want, got := declared[k.list], observed[k.list]
		switch k.kind {
		case "user":
			// Users are the server's: others than ours are told by their permissions.
			got = slices.DeleteFunc(got, func(o object) bool { _, ours := passwords[str(o, "name")]; return !ours })
			legible(want, passwords)
			legible(got, passwords)
		case "permission", "topic permission":
			got = slices.DeleteFunc(got, func(o object) bool { return slices.Contains(admins, str(o, "user")) })
		}
		differences = append(differences, k.compare(want, got, managementURL)...)
	}
	return differences, nil
}

func (k kind) compare(want, got []object, managementURL string) (found []Difference) {
	there := map[string]object{}
	for _, o := range got {
		there[k.name(o)] = o
	}
	for _, o := range want {
		d := Difference{Kind: k.kind, Name: k.name(o), Is: Missing, Why: k.missing, Fix: applyCommand}
		if is := there[d.Name]; is != nil {
			delete(there, d.Name)
			for _, property := range k.compared {
				d.Changes = append(d.Changes, changes(property, o[property], is[property])...)
			}
			if len(d.Changes) == 0 {
				continue
			}
			d.Is, d.Why = Changed, k.changed
			if k.once {
				d.Fix = deletion(managementURL, k.path(o)) + " && " + applyCommand
			}
		}
		found = append(found, d)
	}
	for name, o := range there {
		found = append(found, Difference{Kind: k.kind, Name: name, Is: Extra, Why: k.extra, Fix: deletion(managementURL, k.path(o))})
	}
	slices.SortFunc(found, func(a, b Difference) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// document is the lists of a definitions document, by their names.
type document map[string][]object

func declare(vhost string, flows []*flow.Flow, passwords map[string]string) (document, error) {
	definitions, err := Definitions(vhost, flows, passwords)
	if err != nil {
		return nil, err
	}
	var d document
	err = json.Unmarshal(definitions, &d)
	return d, err
}

// observe reads what a virtual host has, and all users. Of a virtual host that is missing everything is.
func observe(ctx context.Context, managementURL, vhost string) (document, error) {
	d := document{}
	get := func(path string, into any) error {
		answer, err := manage(ctx, http.MethodGet, managementURL, path, nil)
		if err != nil {
			return err
		}
		return json.Unmarshal(answer, into)
	}
	var users, permissions, topics []object
	if err := get("users", &users); err != nil {
		return nil, err
	}
	d["users"] = users
	own := url.PathEscape(vhost)
	if err := get("vhosts/"+own, &object{}); errors.Is(err, errNotThere) {
		return d, nil
	} else if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage // there is also what is no list
	if err := errors.Join(
		get("definitions/"+own, &all),
		get("vhosts/"+own+"/permissions", &permissions),
		get("vhosts/"+own+"/topic-permissions", &topics),
	); err != nil {
		return nil, err
	}
	for _, k := range kinds {
		var list []object
		if all[k.list] != nil {
			if err := json.Unmarshal(all[k.list], &list); err != nil {
				return nil, fmt.Errorf("the %s: %w", k.list, err)
			}
		}
		for _, o := range list {
			o["vhost"] = vhost
		}
		d[k.list] = list
	}
	d["users"], d["permissions"], d["topic_permissions"] = users, permissions, topics
	return d, nil
}

// legible makes users comparable: tags are a list, or a text in older documents; a hash is right or not.
func legible(users []object, passwords map[string]string) {
	for _, u := range users {
		u["tags"] = strings.Join(tags(u), ",")
		right := hashOf(passwords[str(u, "name")], str(u, "password_hash"))
		u["password"] = map[bool]string{true: "that of the service", false: "another one"}[right]
	}
}

func tags(user object) (tags []string) {
	switch t := user["tags"].(type) {
	case string:
		tags = strings.FieldsFunc(t, func(r rune) bool { return r == ',' || r == ' ' })
	case []any:
		for _, one := range t {
			tags = append(tags, fmt.Sprint(one))
		}
	}
	return tags
}

// changes compares a property, a table entry by entry.
func changes(what string, declared, observed any) (found []Change) {
	want, table := declared.(map[string]any)
	if !table {
		leftOut := declared == false && observed == nil // as RabbitMQ 4.3 does with internal
		if !leftOut && !reflect.DeepEqual(declared, observed) {
			found = append(found, Change{what, declared, observed})
		}
		return found
	}
	got, _ := observed.(map[string]any)
	var keys []string
	for key := range want {
		keys = append(keys, key)
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		found = append(found, changes(key, want[key], got[key])...)
	}
	return found
}

// deletion is the command that deletes an object. It asks for the password.
func deletion(managementURL string, path []string) string {
	u, err := url.Parse(managementURL)
	if err != nil || path == nil {
		return "delete it in the management pages"
	}
	address := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() + strings.TrimSuffix(u.EscapedPath(), "/") + "/api"
	for _, part := range path {
		address += "/" + url.PathEscape(part)
	}
	return fmt.Sprintf("curl --fail -u %s -X DELETE %s", quoted(cmp.Or(u.User.Username(), "administrator")), quoted(address))
}

// quoted is for a shell: names are chosen by whoever may declare something.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }

func bindingName(o object) string {
	name := fmt.Sprintf("%s -%s-> %s", str(o, "source"), str(o, "routing_key"), str(o, "destination"))
	if str(o, "destination_type") != "queue" {
		name += " (" + str(o, "destination_type") + ")"
	}
	if arguments, _ := o["arguments"].(map[string]any); len(arguments) > 0 {
		name += " " + text(arguments)
	}
	return name
}

// bindingPath names a binding as the management API does: one with arguments has a hash in its name, which is not told.
func bindingPath(o object) []string {
	if arguments, _ := o["arguments"].(map[string]any); len(arguments) > 0 {
		return nil
	}
	return []string{"bindings", str(o, "vhost"), "e", str(o, "source"), str(o, "destination_type")[:1], str(o, "destination"), cmp.Or(str(o, "routing_key"), "~")}
}

func field(names ...string) func(object) string {
	return func(o object) string {
		var parts []string
		for _, n := range names {
			parts = append(parts, str(o, n))
		}
		return strings.Join(parts, " ")
	}
}

func str(o object, name string) string {
	s, _ := o[name].(string)
	return s
}
