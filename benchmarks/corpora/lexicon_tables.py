"""The words of the lexicon; `benchmarks.corpora.lexicon` reads them.

Rows of facts are `key: phrase=words that state it; phrase=words ~ hints`. A leading "?" marks what
often goes unsaid, so that its absence from captions tells little.
"""

SUBJECTS = """
man: man guy gentleman | men guys gentlemen
woman: woman lady | women ladies
boy: boy | boys
girl: girl | girls
child: child kid toddler baby infant | children kids toddlers babies infants
person: person | people persons
player: player | players
skateboarder: skateboarder | skateboarders
snowboarder: snowboarder | snowboarders
surfer: surfer | surfers
biker: biker cyclist bicyclist | bikers cyclists bicyclists
motorcyclist: motorcyclist | motorcyclists
skier: skier | skiers
climber: climber | climbers
dog: dog puppy | dogs puppies
cat: cat kitten | cats kittens
horse: horse | horses
bird: bird | birds
"""
"""Nouns for one subject: singular | plural."""

ACTIONS = """
running: running=run runs ran running ~ race races racing chase chases chasing chased sprint
 sprints sprinting jog jogs jogging jogger trot trots trotting gallop galloping bounding bounds
jumping: jumping=jump jumps jumped jumping; leaping=leap leaps leaped leapt leaping ~ air midair
 mid-air airborne hop hops hopping bounce bouncing trampoline dive dives diving hurdle flip trick
swimming: swimming=swim swims swam swimming ~ swimmer swimmers pool paddling paddles wading
climbing: climbing=climb climbs climbed climbing ~ climber climbers scale scales scaling hangs
sitting: sitting=sit sits sat sitting ~ seated bench chair couch sofa stool lap squatting crouching
 crouched rests resting relaxes relaxing lounging kneeling riding rides ride
walking: walking=walk walks walked walking ~ stroll strolls strolling hike hikes hiking hikers
 wading crossing cross crosses
sleeping: sleeping=sleep sleeps slept sleeping asleep ~ nap napping resting rests lying laying lies
lying: lying down=lie lies lying lay laying lays ~ sleep sleeps sleeping rest rests resting
 stretched sunbathing sunbathes
dancing: dancing=dance dances danced dancing ~ dancer dancers
swinging: swinging=swinging ~ swing swings swung
soccer: playing soccer=soccer ~ football ball goal
football: playing football=football ~ soccer ball rugby
basketball: playing basketball=basketball ~ ball hoop dunk
tennis: playing tennis=tennis ~ racket racquet ball court
baseball: playing baseball=baseball ~ softball bat pitcher base umpire ball
hockey: playing hockey=hockey ~ puck rink ice
volleyball: playing volleyball=volleyball ~ ball net
fetching: catching something=catch catches catching caught ~ fetch fetches fetching fetched
throwing: throwing something=throw throws threw throwing thrown ~ toss tosses tossing pitch pitching
kicking: kicking=kick kicks kicked kicking ~ soccer karate
eating: eating=eat eats ate eating ~ food meal lunch dinner lick licks licking bite biting
drinking: drinking=drink drinks drank drinking ~ beverage beer wine cup bottle sip sips sipping
fishing: fishing=fishing ~ fish fisherman net
digging: digging=dig digs dug digging
surfing: surfing=surf surfs surfing ~ surfer surfers surfboard wave waves
skating: skating=skate skates skating ~ skater skaters skateboard skateboarding rollerblades ice
fighting: fighting=fight fights fighting; wrestling=wrestle wrestles wrestling ~ boxing karate
hugging: hugging=hug hugs hugged hugging; kissing=kiss kisses kissed kissing ~ embrace embracing
splashing: splashing=splash splashes splashed splashing ~ water wet
sliding: sliding=slides sliding slid ~ slide
?standing: standing=stand stands stood standing
?playing: playing=play plays played playing
?looking: looking at something=look looks looked looking; watching=watch watches watching watched
?smiling: smiling=smile smiles smiled smiling
?posing: posing=pose poses posed posing
?holding: holding something=hold holds held holding; carrying something=carry carries carrying
"""
"""What beings do."""

OBJECTS = """
ball: with a ball=ball balls ~ soccer football basketball tennis baseball volleyball softball rugby
frisbee: with a frisbee=frisbee ~ disc disk toy
stick: with a stick=stick sticks ~ branch twig log wood bat
toy: with a toy=toy toys ~ doll ball frisbee
bicycle: on a bike=bike bikes; on a bicycle=bicycle bicycles ~ biker bikers cyclist cyclists
 bicyclist bmx biking cycling bicycling motorcycle motorbike rider riding
motorcycle: on a motorcycle=motorcycle motorcycles; on a motorbike=motorbike ~ motorcyclist
 motorcyclists bike biker motocross rider
skateboard: on a skateboard=skateboard skateboards ~ skateboarder skateboarders skateboarding
 skater skating board longboard ramp
snowboard: on a snowboard=snowboard ~ snowboarder snowboarders snowboarding board
surfboard: with a surfboard=surfboard surfboards ~ surfer surfers surfing surf board boards
sled: on a sled=sled ~ sledding toboggan tube
guitar: with a guitar=guitar guitars ~ instrument instruments music musician band
bottle: with a bottle=bottle bottles ~ drink drinking drinks beer
cup: with a cup=cup ~ drink drinking drinks glass
?glasses: with glasses=glasses ~ sunglasses goggles spectacles
sunglasses: with sunglasses=sunglasses ~ glasses shades goggles
goggles: with goggles=goggles ~ glasses sunglasses
helmet: with a helmet=helmet helmets ~ hat gear
hat: in a hat=hat hats; in a cap=cap ~ helmet beanie sombrero hood bandanna headband
backpack: with a backpack=backpack backpacks ~ bag pack
?bag: with a bag=bag bags ~ purse backpack sack luggage shopping
umbrella: with an umbrella=umbrella umbrellas ~ rain parasol
flag: with a flag=flag flags ~ banner banners
?sign: with a sign=sign signs ~ poster billboard banner
balloon: with a balloon=balloon balloons
rope: with a rope=rope ropes ~ cord leash climbing
swing: on a swing=swing ~ swings swinging swung playground
slide: on a slide=slide ~ slides sliding playground
?leash: on a leash=leash ~ lead rope
book: with a book=book books ~ reading reads magazine
phone: with a phone=phone cellphone telephone ~ cell mobile
flower: with flowers=flowers; with a flower=flower ~ bouquet floral
bucket: with a bucket=bucket ~ pail
car: by a car=car cars ~ vehicle automobile truck van jeep traffic
boat: in a boat=boat boats; in a kayak=kayak; in a canoe=canoe ~ raft ship sailing
kite: with a kite=kite
bench: on a bench=bench ~ seat chair
chair: in a chair=chair ~ seat bench couch
couch: on a couch=couch; on a sofa=sofa ~ chair seat pillow
bed: on a bed=bed ~ sleeping blanket pillow mattress
?table: at a table=table tables ~ desk restaurant counter
?fence: by a fence=fence ~ gate
?tree: by a tree=tree ~ trees woods forest branch wooded
fountain: at a fountain=fountain fountains ~ water
?camera: with a camera=photographer ~ camera picture photo photograph
costume: in a costume=costume costumes; dressed up=dressed ~ outfit mask
suit: in a suit=suit ~ tie tuxedo business
bikini: in a bikini=bikini; in a swimsuit=swimsuit ~ bathing swimming swim
tongue: with its tongue out=tongue
hoop: with a hoop=hoop
dog: with a dog=dog dogs puppy ~ animal animals terrier poodle retriever
horse: with a horse=horse horses ~ rodeo riding cowboy
baby: with a baby=baby ~ infant toddler child children
"""
"""Things beside, on or under them."""

SCENES = """
snow: in the snow=snow snowy snow-covered snowbank ~ ski skis skiing skier skiers snowboard
 snowboarder snowboarding sled sledding winter ice icy snowball snowman snowmobile snowshoe
water: in the water=water ~ pool lake river ocean sea wave waves surf surfer surfing swim swims
 swimming swimmer stream fountain puddle splash splashes splashing shore wade wades wading creek
 pond bath tub kayak boat waterfall wet sprinkler hose raft dock wakeboard
beach: on the beach=beach ~ sand sandy shore ocean sea seashore coast waves surf
sand: in the sand=sand sandy ~ beach desert dune dunes shore
ocean: by the ocean=ocean; by the sea=sea ~ water beach wave waves surf surfer surfing shore coast
pool: in a pool=pool ~ swim swims swimming swimmer water
lake: at a lake=lake ~ water river pond stream
river: at a river=river; at a stream=stream; at a creek=creek ~ water lake rapids brook
wave: on a wave=wave waves ~ surf surfing surfer ocean
grass: in the grass=grass grassy; on a lawn=lawn ~ field park meadow yard garden golf green
field: in a field=field ~ grass grassy meadow pasture lawn park soccer baseball football
street: on a street=street streets; on a road=road ~ sidewalk city car cars traffic crosswalk
 pavement intersection alley highway corner curb downtown bus town urban
sidewalk: on a sidewalk=sidewalk ~ street pavement walkway city
city: in a city=city ~ street downtown urban town buildings skyline sidewalk
woods: in the woods=woods wooded; in a forest=forest ~ trees tree wilderness jungle
mountain: in the mountains=mountain mountains mountaintop ~ cliff hill peak summit rock rocks rocky
hill: on a hill=hill hillside ~ mountain mountains slope cliff
rock: on a rock=rock boulder; on the rocks=rocks rocky ~ cliff stone stones mountain climbing
park: in a park=park ~ playground grass garden
playground: on a playground=playground ~ swing slide park
night: at night=night nighttime ~ dark evening dusk sunset neon fireworks lights
sunset: at sunset=sunset; at dusk=dusk ~ sun sundown evening night silhouette silhouetted dawn
crowd: in a crowd=crowd crowded ~ audience spectators fans group many
?dirt: on dirt=dirt ~ mud muddy sand dust dusty track bmx
mud: in the mud=mud muddy ~ dirt dirty puddle
stage: on stage=stage onstage ~ concert perform performs performing band
ice: on the ice=ice icy ~ snow rink hockey frozen
ramp: on a ramp=ramp ~ halfpipe half-pipe skatepark skate
track: on a track=track ~ race racing racetrack
?wall: in front of a wall=wall ~ brick graffiti building
?building: in front of a building=building buildings ~ house city church wall store
leaves: in the leaves=leaves ~ leaf fall autumn
dock: on a dock=dock; on a pier=pier ~ boat water
bridge: on a bridge=bridge
path: on a path=path; on a trail=trail ~ road walkway sidewalk dirt
store: at a store=store; at a shop=shop ~ shopping market
restaurant: at a restaurant=restaurant ~ cafe table dinner
air: in the air=air midair mid-air airborne ~ jump jumps jumping jumped leap leaps leaping flying
 flies fly trick
"""
"""Where and when."""

GARMENTS = """
shirt: shirt t-shirt tshirt tee-shirt top blouse jersey sweater sweatshirt shirts tops
jacket: jacket coat hoodie jackets coats
hat: hat cap beanie hats
helmet: helmet
dress: dress
pants: pants jeans trousers
shorts: shorts trunks
skirt: skirt
suit: suit
swimsuit: swimsuit bikini
uniform: uniform uniforms outfit
vest: vest
collar: collar
scarf: scarf
"""
"""Group of garments: its words."""

COMPOUNDS = """
tennis* ball|tennis* balls|tennis* shoes|tennis* toy|soccer* ball*|ball* cap|baseball* cap
baseball* hat|baseball* caps|football* helmet|basketball* jersey|bathing suit*|bathing suits*
swim* suit*|wet suit*|body suit*|jump* suit*|snow* suit*|snow* suits|swim* trunks|toy* car*
plastic car*|toy* cars*|plastic cars*|toy* boat*|toy* horse*|stuffed dog*|ice* skates|ice* skate
ice* skating|ice* cream|ice* skaters|water* bottle|water* gun|water* fountain|water* slide
water* polo|beach* ball|beach* volleyball|beach* chair|pool* table|table* tennis|tennis* table
hot dog*|hot dogs*|air* balloon|street* vendor|street* clothes|street* performer|stop sign*
parking* lot|swing* set|mountain* bike|mountain* bikes|mountain* biker|mountain* bikers|dirt* bike
dirt* bikes|dirt* biker|dirt* bikers|rock* climber|rock* climbers|rock* climbing|rock* climb
rock* wall|rock* band|rock* concert|car* seat|car* wash|horse* race|dog* house|dog* toy|dog* show
baby* carriage|baby* stroller|baby* pool|flag* football|book* store|field* goal|field* hockey
phone* booth|camera* phone|truck bed*|flower* bed*|bed* cover|sticks* out|sticks* its|stick* its
stick* out|lift chair*|wheel chair*|bus stop|hat stand|skate* park*|skate* boarder|snow* board
looks like|look* like|sand* castle|sand* dune|city* bus|night* club|night* gown|rope* swing
life jacket*|life vest*|run* down|running* shoes|running* water|runs* into|flying kick|kick* flip
boxing* ring|water* tank|swing* a|swing* at|high chair*|dog* bed|leaf* pile
swimming* pool|swimming* trunks|dog* sled|dog* sledding
"""
"""Pairs of words in which a starred word does not mean what it means alone."""
