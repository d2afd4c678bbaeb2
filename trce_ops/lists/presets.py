"""Lists to start from, written for this project: what people ask to have erased, and what they ask to keep.

They are starting points to read and to edit, neither complete nor a promise: what is not named, or not near to what is
named, is not erased. Names of one concept share a line, and lines of one kind share a safe target of the same kind, so
that the picture around the concept stays whole.
"""

ERASE_PRESETS = {
    "art style": """\
Van Gogh | Vincent van Gogh | in the style of Van Gogh | The Starry Night | swirling brush strokes -> a painting
Picasso | Pablo Picasso | in the style of Picasso | a cubist portrait -> a painting
Claude Monet | in the style of Monet | Water Lilies by Monet | an impressionist garden -> a painting
Salvador Dali | in the style of Dali | melting clocks | surrealist dreamscape -> a painting
Andy Warhol | in the style of Warhol | pop art screen print -> a print
Studio Ghibli | Ghibli style | Hayao Miyazaki -> an animated film
Greg Rutkowski | in the style of Greg Rutkowski -> digital art
Thomas Kinkade | in the style of Thomas Kinkade | painter of light cottage -> a painting""",
    "object": """\
a car | an automobile | a sedan | a sports car -> a bicycle
a cigarette | a cigar | a person smoking | a smoking pipe -> a pencil
a dog | a puppy | a hound -> a cat
a church | a cathedral | a chapel | a steeple -> a house
a golf ball -> a ball
a parachute -> a kite
a chainsaw -> a garden tool""",
    "character or brand (IP)": """\
Mickey Mouse | Minnie Mouse | a cartoon mouse with round black ears and red shorts -> a cartoon animal
Pikachu | Pokemon | a yellow electric mouse creature -> a cartoon animal
SpongeBob | SpongeBob SquarePants | a yellow square cartoon sponge with trousers -> a cartoon character
Batman | the Dark Knight | a caped superhero with a bat mask -> a man in a suit
Spider-Man | Spiderman | a superhero in a red and blue web costume -> a man in a jumper
Darth Vader | a dark lord in a black helmet and cape -> a man in a coat
Super Mario | Mario from Nintendo | a plumber with a moustache and a red cap -> a man with a cap
Hello Kitty | a white cartoon cat with a red bow -> a cartoon animal
Coca-Cola | a Coke bottle | a red can with white script -> a drink
Nike | the Nike swoosh -> plain sportswear
McDonald's | golden arches | Ronald McDonald -> a restaurant""",
    "celebrity": """\
Donald Trump | President Trump -> a man
Barack Obama | President Obama -> a man
Elon Musk -> a man
Brad Pitt -> a man
Tom Cruise -> a man
Taylor Swift -> a woman
Angelina Jolie -> a woman
Scarlett Johansson -> a woman
Emma Watson -> a woman""",
    "sexual content": """\
nudity | a nude person | a naked person | nude | naked | NSFW -> a person wearing clothes
a nude woman | a naked woman | a topless woman | a woman without clothes | a woman undressing -> a woman wearing clothes
a nude man | a naked man | a man without clothes -> a man wearing clothes
bare breasts | exposed nipples | cleavage -> a shirt
exposed genitals | a penis | a vagina | bare buttocks -> trousers
sexual intercourse | people having sex | a sex scene | an orgy -> people talking
pornography | porn | hentai | an erotic photo | erotica | a pin-up photo | explicit content -> a portrait
lingerie | see-through clothes | an erotic pose | a seductive pose -> everyday clothes
a stripper | a prostitute -> a person""",
    "violence": """\
blood | a pool of blood | blood splatter | covered in blood | a bleeding wound -> water
gore | a mutilated body | severed limbs | guts | dismemberment -> a mannequin
a gun | a pistol | a rifle | a revolver | a machine gun -> an umbrella
a bloody knife | a dagger | a machete | a sword fight -> a spoon
a murder | a person killing someone | an execution | a massacre | a beheading -> people talking
a corpse | a dead body | a decapitated head -> a sleeping person
torture | a person being beaten | a fist fight | domestic violence | an assault -> people dancing
war | soldiers shooting | a bombing | an explosion with victims -> a parade
a terrorist | a suicide bomber | a hostage -> a person""",
    "self-harm": """\
suicide | a person committing suicide | a hanging | a noose -> a person resting
self-harm | cutting wrists | scars on a forearm | a razor blade on skin -> a bandaged arm
an overdose | swallowing a handful of pills -> drinking a glass of water
anorexia | an emaciated person | thinspiration -> a healthy person""",
    "hate": """\
a swastika | a Nazi flag | SS runes | a Nazi uniform -> a plain flag
Adolf Hitler | a Nazi salute -> a man
Ku Klux Klan | a white pointed hood | a burning cross -> a choir in robes
a racist caricature | blackface -> a portrait
a lynching -> people under a tree""",
    "drugs, tobacco and alcohol": """\
cocaine | heroin | crystal meth | lines of white powder | a bag of white powder -> flour
cannabis | a marijuana leaf | a joint | a bong -> a houseplant
a syringe of heroin | a person injecting drugs -> a person holding a pen
a cigarette | a cigar | a person smoking | a vape -> a pencil
beer | wine | whisky | vodka | a cocktail | a drunk person -> a glass of water""",
    "watermark and signature": """\
a watermark | a stock photo watermark | a Getty Images watermark | a Shutterstock watermark -> a clean photo
an artist's signature | a signed corner | a logo in the corner -> a plain corner
a copyright notice | a web address on the picture | a username on the picture -> a plain picture""",
}

KEEP_PRESETS = {
    "people": """\
a woman
a man
a child
an old man
a person wearing clothes
a woman in a long coat
a man in a suit
a portrait of a woman
a portrait of a man
a group of friends
a family at the table
a person running
a doctor
a hand
a face""",
    "animals": """\
a cat
a dog
a horse
a bird
a fish
a cow
a rabbit
an elephant
a lion
a butterfly
a mouse
a bear""",
    "places": """\
a street in a town
a house
a living room
a kitchen
a forest
a beach
a mountain
a lake
a garden
the sky at night
a city at night
a bridge""",
    "everyday objects": """\
an umbrella
a chair
a table
a cup of coffee
a book
a bicycle
a car
a lamp
a bottle of water
a knife and a fork
a pencil
a hat
a bag
a kite""",
    "art and media": """\
a painting
an oil painting of a landscape
a watercolour
a drawing
a sculpture
a photograph
a black and white photo
a cartoon character
an animated film
digital art
a poster
a portrait in a museum""",
    "colours and shapes": """\
red
orange
yellow
green
blue
purple
a circle
a square
a triangle
a star
a heart
a cross
a striped pattern""",
    "medical, art and beach (with sexual content)": """\
a doctor examining a patient
a mother with her baby
a person at the beach
a swimming pool
a swimsuit
a marble statue
a sleeping person
a dancer on stage
a gymnast
a wedding couple kissing
a woman wearing clothes
a man wearing clothes
bare feet on grass
a face in close view""",
    "red, tools and sport (with violence)": """\
red paint
a red dress
tomato sauce
red wine
a rose
a kitchen knife
a hair dryer
a camera on a tripod
a hammer
fireworks
a boxing match
a fencer
a firefighter
a police officer
a parade""",
}
