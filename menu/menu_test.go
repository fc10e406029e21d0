package menu

import (
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"hotchoc/pkg/contract"
	"hotchoc/pkg/contract/makev1"
	"hotchoc/pkg/contract/menuv1"
	"hotchoc/pkg/contract/shopv1"
	"hotchoc/pkg/event"
	"hotchoc/pkg/flow"
	"hotchoc/pkg/flow/flowtest"
)

func TestMain(m *testing.M) { flowtest.Main(m, Flow) }

func eur(amount int64) *shopv1.Money { return &shopv1.Money{Amount: amount, Currency: "EUR"} }

func of(ingredients ...Amount) (recipe []*shopv1.Ingredient) {
	for _, a := range ingredients {
		recipe = append(recipe, &shopv1.Ingredient{Name: a.Ingredient, Amount: a.Amount})
	}
	return recipe
}

// describe is an item of these ingredients, a unit of each per cup.
func describe(sku string, ingredients ...string) Describe {
	d := Describe{SKU: sku, Name: "Hot " + sku, Price: 450, Currency: "EUR", Offered: true}
	for _, name := range ingredients {
		d.Recipe = append(d.Recipe, Amount{name, 1})
	}
	return d
}

// edited is the event that brings such an item up to date with the stock.
func edited(d Describe, depleted ...string) *menuv1.ItemEdited {
	return &menuv1.ItemEdited{
		Sku: d.SKU, Name: d.Name, Price: eur(d.Price), Recipe: of(d.Recipe...),
		Available: d.Offered && len(depleted) == 0, Offered: d.Offered, Depleted: depleted,
	}
}

func depleted(ingredient string) *makev1.StockDepleted {
	return &makev1.StockDepleted{Location: "main", Ingredient: ingredient}
}

func replenished(ingredient string) *makev1.StockReplenished {
	return &makev1.StockReplenished{Location: "main", Ingredient: ingredient, Amount: 500, Available: 500, Cause: "staff"}
}

// opened is a shop with these items on its menu.
func opened(t *testing.T, menu ...Describe) *flowtest.Saga {
	t.Helper()
	s := flowtest.New(t, Flow)
	for _, d := range menu {
		s.GivenDone("add", Add{d})
	}
	return s
}

// arrives lets a movement of the stock arrive as this version of its stream, whatever came before it.
func arrives(t *testing.T, s *flowtest.Saga, version int64, fact proto.Message) (caused []string) {
	t.Helper()
	e, _ := contract.Of(fact)
	body, err := contract.Marshal(fact)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Flow.Accept(event.Record{Body: body, Envelope: event.Envelope{
		ID: event.NewID(), Type: e.Type, Schema: 1, Source: e.Owner, Stream: e.StreamOf(fact), Version: version, Saga: uuid.MustParse(flowtest.Order),
	}})
	if err != nil {
		t.Fatal(err)
	}
	v := flow.NewDoor(Flow, s.Store(), nil, nil).Process(context.Background(), []flow.Message{m})[0]
	if v.Err != nil {
		t.Fatal(v.Err)
	}
	for _, r := range v.Events {
		caused = append(caused, r.Type)
	}
	return caused
}

func TestTheStaffAddsAnItem(t *testing.T) {
	s := flowtest.New(t, Flow)
	s.WhenDone("add", Add{Describe{
		SKU: "classic", Name: "Classic hot chocolate", Price: 450, Currency: "EUR", Offered: true,
		Recipe: []Amount{{"milk", 200}, {"chocolate", 30}},
	}})
	s.Then(&menuv1.ItemAdded{
		Sku: "classic", Name: "Classic hot chocolate", Price: eur(450), Available: true, Offered: true,
		Recipe: []*shopv1.Ingredient{{Name: "milk", Amount: 200}, {Name: "chocolate", Amount: 30}},
	})
	got := flowtest.Doc[Entry](s, "menu_page", "classic")
	if got.Name != "Classic hot chocolate" || got.Price != (Money{450, "EUR"}) || !got.Available || !got.Offered || got.Retired || got.Version != 1 ||
		!slices.Equal(got.Recipe, []Amount{{"milk", 200}, {"chocolate", 30}}) || got.Depleted == nil || len(got.Depleted) != 0 {
		t.Errorf("the page shows %+v", got)
	}
}

func TestAnItemIsAddedOnce(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	s.WhenDone("add", Add{describe("classic", "oat milk")})
	s.ThenRefused("item-exists")
}

func TestTheStaffEditsAnItem(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	dearer := describe("classic", "milk", "sugar")
	dearer.Price, dearer.Name = 500, "Classic, sweeter"
	s.WhenDone("edit", Edit{dearer})
	s.Then(edited(dearer))
	if got := flowtest.Doc[Entry](s, "menu_page", "classic"); got.Price.Amount != 500 || got.Name != "Classic, sweeter" || got.Version != 2 {
		t.Errorf("the page shows %+v", got)
	}
}

func TestAnItemThatIsNotOfferedIsNotAvailable(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	withdrawn := describe("classic", "milk")
	withdrawn.Offered = false
	s.WhenDone("edit", Edit{withdrawn})
	s.Then(edited(withdrawn))
	if got := flowtest.Doc[Entry](s, "menu_page", "classic"); got.Available || got.Offered {
		t.Errorf("the page shows %+v", got)
	}

	fresh := describe("dark", "milk")
	fresh.Offered = false
	s.WhenDone("add", Add{fresh})
	e := edited(fresh)
	s.Then(&menuv1.ItemAdded{Sku: e.Sku, Name: e.Name, Price: e.Price, Recipe: e.Recipe})
}

func TestStockDoesNotOfferWhatTheStaffDoesNot(t *testing.T) {
	withdrawn := describe("classic", "milk")
	withdrawn.Offered = false
	s := opened(t, withdrawn)
	s.When(depleted("milk"))
	s.Then(edited(withdrawn, "milk"))
	s.When(replenished("milk"))
	s.Then(edited(withdrawn))
	if flowtest.Doc[Entry](s, "menu_page", "classic").Available {
		t.Error("milk came in, and the item that is not offered became available")
	}
}

func TestTheStaffRetiresAnItem(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	s.WhenDone("retire", Retire{"classic"})
	s.Then(&menuv1.ItemRetired{Sku: "classic", Name: "Hot classic", Price: &shopv1.Money{Amount: 450, Currency: "EUR"}, Recipe: []*shopv1.Ingredient{{Name: "milk", Amount: 1}}})
	if got := flowtest.Doc[Entry](s, "menu_page", "classic"); !got.Retired || got.Available || got.Name == "" || got.Version != 2 {
		t.Errorf("the page shows %+v", got)
	}
}

func TestWhatIsNotOnTheMenuCannotBeEditedOrRetired(t *testing.T) {
	s := opened(t, describe("gone", "milk"))
	s.GivenDone("retire", Retire{"gone"})
	for _, sku := range []string{"unheard-of", "gone"} {
		s.WhenDone("edit", Edit{describe(sku, "milk")})
		s.ThenRefused("unknown-item")
		s.WhenDone("retire", Retire{sku})
		s.ThenRefused("unknown-item")
	}
}

func TestARetiredItemIsAddedAnew(t *testing.T) {
	s := opened(t, describe("classic", "milk", "sugar"))
	s.GivenDone("retire", Retire{"classic"})
	s.Given(depleted("sugar"))
	again := describe("classic", "milk", "honey")
	s.WhenDone("add", Add{again})
	e := edited(again)
	s.Then(&menuv1.ItemAdded{Sku: e.Sku, Name: e.Name, Price: e.Price, Recipe: e.Recipe, Available: true, Offered: true})
	if got := flowtest.Doc[Entry](s, "menu_page", "classic"); got.Retired || !got.Available || got.Version != 3 {
		t.Errorf("the page shows %+v: it goes on in the same stream", got)
	}
}

func TestAnItemAddedWhileAnIngredientIsOutIsNotAvailable(t *testing.T) {
	s := flowtest.New(t, Flow)
	s.Given(depleted("spice"), depleted("chili"), depleted("sugar"), replenished("sugar"))
	d := describe("winter", "spice", "chili")
	s.WhenDone("add", Add{d})
	e := edited(d, "chili", "spice")
	s.Then(&menuv1.ItemAdded{Sku: e.Sku, Name: e.Name, Price: e.Price, Recipe: e.Recipe, Offered: true, Depleted: e.Depleted})

	s.When(replenished("spice"))
	s.Then(edited(d, "chili"))
	s.When(replenished("chili"))
	s.Then(edited(d))
}

func TestAnEditLooksAtTheStockOfTheNewRecipe(t *testing.T) {
	s := opened(t, describe("classic", "milk", "sugar"))
	s.Given(depleted("sugar"), depleted("honey"))
	without := describe("classic", "milk")
	s.WhenDone("edit", Edit{without})
	s.Then(edited(without))
	with := describe("classic", "milk", "honey")
	s.WhenDone("edit", Edit{with})
	s.Then(edited(with, "honey"))
}

func TestASellOutMarksAllItemsThatNeedIt(t *testing.T) {
	classic, white := describe("classic", "milk"), describe("white", "milk")
	s := opened(t, classic, describe("vegan", "oat milk"), white)
	s.When(depleted("milk"))
	s.Then(edited(classic, "milk"), edited(white, "milk"))
	if flowtest.Doc[Entry](s, "menu_page", "classic").Available || !flowtest.Doc[Entry](s, "menu_page", "vegan").Available {
		t.Error("the page does not show what is sold out")
	}
}

func TestASellOutOfWhatNobodyNeedsChangesNothing(t *testing.T) {
	s := opened(t, describe("classic", "milk", "sugar"))
	s.When(depleted("gold leaf"))
	s.Then()
	s.GivenDone("edit", Edit{describe("classic", "milk")})
	s.When(depleted("sugar"))
	s.Then() // not in the recipe any more
}

func TestOnlyWhatIsWholeComesBack(t *testing.T) {
	winter := describe("winter", "milk", "spice")
	s := opened(t, winter)
	s.Given(depleted("milk"), depleted("spice"))
	s.When(replenished("milk"))
	s.Then(edited(winter, "spice"))
	s.When(replenished("spice"))
	s.Then(edited(winter))
}

func TestWhatIsKnownAlreadyIsNotSaidAgain(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	s.When(replenished("milk"))
	s.Then()
	s.Given(depleted("milk"))
	s.When(depleted("milk"))
	s.Then()
	s.Given(replenished("milk"))
	s.When(replenished("milk"))
	s.Then()
}

func TestRetiredItemsAreLeftAlone(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	s.GivenDone("retire", Retire{"classic"})
	s.When(depleted("milk"))
	s.Then()
	s.When(replenished("milk"))
	s.Then()
}

func TestTheNewestWordOnAnIngredientCounts(t *testing.T) {
	s := opened(t, describe("classic", "milk"))
	if caused := arrives(t, s, 12, replenished("milk")); len(caused) != 0 {
		t.Errorf("it was there all along, but caused %v", caused)
	}
	if caused := arrives(t, s, 10, depleted("milk")); len(caused) != 0 {
		t.Errorf("it had come back since, but caused %v", caused)
	}
	if caused := arrives(t, s, 14, depleted("milk")); !slices.Equal(caused, []string{"item.edited"}) {
		t.Errorf("it ran out again, but caused %v", caused)
	}
	if caused := arrives(t, s, 11, replenished("milk")); len(caused) != 0 {
		t.Errorf("it ran out since, but caused %v", caused)
	}
	if flowtest.Doc[Entry](s, "menu_page", "classic").Available {
		t.Error("the item is available without milk")
	}
}
func TestTheMilkOfTheOpeningMenuRunsOutAndComesBack(t *testing.T) {
	s := opened(t, openingMenu...)
	s.When(depleted("milk"))
	s.Then(edited(openingMenu[0], "milk"), edited(openingMenu[1], "milk"), edited(openingMenu[5], "milk"), edited(openingMenu[2], "milk"), edited(openingMenu[4], "milk"))
	s.When(replenished("milk"))
	s.Then(edited(openingMenu[0]), edited(openingMenu[1]), edited(openingMenu[5]), edited(openingMenu[2]), edited(openingMenu[4]))
}
