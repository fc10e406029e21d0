// Package asyncapi writes what goes over the wire as an AsyncAPI 3.0 document, computed from the contracts and the flows:
// https://www.asyncapi.com/docs/reference/specification/v3.0.0
//
// A channel is an exchange, or the queue of a service for what it sends to itself; an operation is one service that sends
// or hears one message. Headers are those of pkg/rabbit, payloads are JSON as protojson writes it, with the names of the
// .proto files.
package asyncapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/reflect/protoreflect"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/rabbit"
)

type object = map[string]any

// Document computes the document. It is the same for the same contracts and flows.
func Document(ctx context.Context, flows []*flow.Flow) ([]byte, error) {
	files, err := compile(ctx)
	if err != nil {
		return nil, err
	}
	d := document{files: files, channels: object{}, operations: object{}, messages: object{}, schemas: object{}}
	for _, e := range contract.All() {
		if err := d.message(e); err != nil {
			return nil, err
		}
	}
	for _, f := range flows {
		d.service(f)
	}
	return json.MarshalIndent(object{
		"asyncapi": "3.0.0",
		"info": object{
			"title":       "hotchoc",
			"version":     "1.0.0",
			"description": "The events of the hot-chocolate shop: who sends them, who hears them, and what they carry. Computed from the contracts and the flows: `hotchoc flow asyncapi`.",
		},
		"defaultContentType": "application/json",
		"channels":           d.channels,
		"operations":         d.operations,
		"components":         object{"messages": d.messages, "schemas": d.schemas},
	}, "", "  ")
}

// compile reads the .proto files with their comments, which generated code does not have.
func compile(ctx context.Context) (files []protoreflect.FileDescriptor, err error) {
	var names []string
	err = fs.WalkDir(contract.Sources, "proto", func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutPrefix(path, "proto/"); ok && strings.HasSuffix(name, ".proto") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	compiler := protocompile.Compiler{
		SourceInfoMode: protocompile.SourceInfoStandard,
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			Accessor: func(name string) (io.ReadCloser, error) { return contract.Sources.Open("proto/" + name) },
		}),
	}
	linked, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("the .proto files: %w", err)
	}
	for _, f := range linked {
		files = append(files, f)
	}
	return files, nil
}

// document is one under construction: what its maps have is its components by their names.
type document struct {
	files                                   []protoreflect.FileDescriptor
	channels, operations, messages, schemas object
}

func reference(path ...string) object { return object{"$ref": "#/" + strings.Join(path, "/")} }

// message adds a declared event and the schemas of what it carries.
func (d *document) message(e *contract.Event) error {
	name := e.New().ProtoReflect().Descriptor().FullName()
	m := d.find(name)
	if m == nil {
		return fmt.Errorf("%s is declared as %s, which is in no .proto file", e.Type, name)
	}
	d.schema(m)
	body, err := contract.Marshal(contract.Example(e.Type))
	if err != nil {
		return err
	}
	about := "One writer: " + e.Owner + ". "
	switch {
	case e.Class == contract.ClassTimer:
		about = "A timer of " + e.Owner + ", sent to itself. "
	case e.Failure:
		about += "A Failed event: earlier steps roll back on it. "
	case e.Terminal:
		about += "The end of a saga. "
	}
	d.messages[e.Type] = object{
		"name": e.Type, "title": string(m.Name()), "summary": comment(m),
		"description": about + fmt.Sprintf("Class %s, stream %s, schema version %d. ", e.Class, e.Stream, e.Version) +
			"Its properties in AMQP: the message ID, the same over every redelivery, retry and redrive; the type; the app ID, which is the service; the correlation ID, which is the saga.",
		"contentType": "application/json",
		"tags":        []object{{"name": e.Owner}, {"name": string(e.Class)}},
		"headers":     headers(e),
		"payload":     reference("components", "schemas", string(name)),
		"bindings":    object{"amqp": object{"contentEncoding": "utf-8", "messageType": e.Type, "bindingVersion": "0.3.0"}},
		"examples":    []object{{"name": "example", "payload": json.RawMessage(body)}},
	}
	return nil
}

func (d *document) find(name protoreflect.FullName) protoreflect.MessageDescriptor {
	for _, f := range d.files {
		if m := f.Messages().ByName(name.Name()); m != nil && m.FullName() == name {
			return m
		}
	}
	return nil
}

// headers are those of every event, as pkg/rabbit writes them.
func headers(e *contract.Event) object {
	text := func(about string) object { return object{"type": "string", "description": about} }
	id := func(about string) object { return object{"type": "string", "format": "uuid", "description": about} }
	number := func(about string) object { return object{"type": "integer", "minimum": 0, "description": about} }
	properties := object{
		"cloudEvents_time":        object{"type": "string", "format": "date-time", "description": "When it was recorded."},
		"cloudEvents_causationid": id("The message that caused this one."),
		"schema":                  object{"type": "integer", "minimum": 1, "maximum": e.Version, "description": "The schema version it was written with."},
		"hops":                    number("The length of the chain of causes."),
		"actor":                   text("On whose behalf the saga began."),
		rabbit.HeaderAttempt:      object{"type": "integer", "minimum": 1, "description": "Which attempt this is, on its way back from a wait queue."},
	}
	required := []string{"cloudEvents_time", "cloudEvents_causationid", "schema", "hops"}
	if e.Class != contract.ClassTimer {
		properties["cloudEvents_subject"] = text("The stream: " + e.Stream + "/<key>.")
		properties["cloudEvents_sequence"] = object{"type": "string", "pattern": "^[0-9]+$", "description": "The version within the stream, from 1 without gaps."}
		required = append(required, "cloudEvents_subject", "cloudEvents_sequence")
	}
	slices.Sort(required)
	return object{"type": "object", "properties": properties, "required": required}
}

// schema adds a message as protojson writes it, and those it is made of. What is zero is left out on the wire, so nothing is
// required.
func (d *document) schema(m protoreflect.MessageDescriptor) {
	name := string(m.FullName())
	if _, ok := d.schemas[name]; ok {
		return
	}
	properties := object{}
	d.schemas[name] = object{"type": "object", "title": string(m.Name()), "description": comment(m), "properties": properties}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		s := d.value(f)
		if f.IsList() {
			s = object{"type": "array", "items": s}
		}
		if text := comment(f); text != "" && s["$ref"] == nil {
			s["description"] = text
		}
		properties[string(f.Name())] = s
	}
}

// value is the schema of one value of a field.
func (d *document) value(f protoreflect.FieldDescriptor) object {
	switch f.Kind() {
	case protoreflect.StringKind:
		return object{"type": "string"}
	case protoreflect.BoolKind:
		return object{"type": "boolean"}
	case protoreflect.Int32Kind:
		return object{"type": "integer", "format": "int32"}
	case protoreflect.Int64Kind:
		return object{"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
	case protoreflect.MessageKind:
		if f.Message().FullName() == "google.protobuf.Timestamp" {
			return object{"type": "string", "format": "date-time"}
		}
		d.schema(f.Message())
		return reference("components", "schemas", string(f.Message().FullName()))
	}
	panic(fmt.Sprintf("asyncapi: %s is of the kind %s, which no contract has had so far: say here how it looks in JSON", f.FullName(), f.Kind()))
}

// comment is what stands above a declaration.
func comment(d protoreflect.Descriptor) string {
	text := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	return strings.Join(strings.Fields(text), " ")
}

// service adds what a service sends and hears.
func (d *document) service(f *flow.Flow) {
	s := f.Service
	for _, typ := range flow.OwnedBy(s) {
		d.operation(s, "sends", "send", d.exchange(s), typ)
	}
	for _, typ := range f.Hears() {
		owner, _ := flow.Owner(typ)
		d.operation(s, "hears", "receive", d.exchange(owner), typ)
	}
	for _, e := range contract.All() {
		if e.Class == contract.ClassTimer && e.Owner == s {
			channel := d.queue(s)
			d.operation(s, "sends", "send", channel, e.Type)
			d.operation(s, "hears", "receive", channel, e.Type)
		}
	}
}

// operation adds that a service sends or hears a message on a channel.
func (d *document) operation(service, does, action, channel, typ string) {
	d.channels[channel].(object)["messages"].(object)[typ] = reference("components", "messages", typ)
	amqp := object{"ack": true, "bindingVersion": "0.3.0"}
	if action == "send" {
		amqp = object{"deliveryMode": 2, "mandatory": true, "timestamp": true, "userId": service, "bindingVersion": "0.3.0"}
	}
	d.operations[service+"."+does+"."+typ] = object{
		"action": action, "channel": reference("channels", channel),
		"summary":  service + " " + does + " " + typ,
		"tags":     []object{{"name": service}},
		"messages": []object{reference("channels", channel, "messages", typ)},
		"bindings": object{"amqp": amqp},
	}
}

// exchange adds the channel of a service's events, once.
func (d *document) exchange(service string) string {
	name := rabbit.EventsExchange(service)
	if d.channels[name] == nil {
		d.channels[name] = object{
			"address": name, "title": "The events of " + service,
			"description": "The topic exchange that only " + service + " may write to. The routing key is the type of the event.",
			"messages":    object{},
			"bindings": object{"amqp": object{
				"is": "routingKey", "bindingVersion": "0.3.0",
				"exchange": object{"name": name, "type": "topic", "durable": true, "autoDelete": false, "vhost": "/"},
			}},
		}
	}
	return name
}

// queue adds the channel of a service's own queue, once.
func (d *document) queue(service string) string {
	if d.channels[service] == nil {
		d.channels[service] = object{
			"address": service, "title": "The queue of " + service,
			"description": "A quorum queue. Beside what it is bound for, " + service + " sends its timers there.",
			"messages":    object{},
			"bindings": object{"amqp": object{
				"is": "queue", "bindingVersion": "0.3.0",
				"queue": object{"name": service, "durable": true, "exclusive": false, "autoDelete": false, "vhost": "/"},
			}},
		}
	}
	return service
}
